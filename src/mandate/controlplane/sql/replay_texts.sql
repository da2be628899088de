-- Whether any decision came with a text.
SELECT EXISTS (SELECT FROM mandate.audit_timeline_entries t WHERE t.details ? 'unstructured_context')
