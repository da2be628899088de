-- One database for many tenants: every table has the tenant in its key, and policies that hide the others' rows.
CREATE SCHEMA saas;
CREATE TABLE saas.tenants (id int PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE saas.users (
    tenant_id int NOT NULL REFERENCES saas.tenants ON DELETE CASCADE,
    id int NOT NULL,
    login text NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, login)
);
CREATE TABLE saas.documents (
    tenant_id int NOT NULL DEFAULT nullif(current_setting('app.tenant', true), '')::int REFERENCES saas.tenants,
    id bigint GENERATED ALWAYS AS IDENTITY,
    author int NOT NULL,
    title text NOT NULL,
    shared boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, author) REFERENCES saas.users ON DELETE CASCADE
);
CREATE TABLE saas.comments (
    tenant_id int NOT NULL,
    document bigint NOT NULL,
    number int NOT NULL,
    said text,
    PRIMARY KEY (tenant_id, document, number),
    FOREIGN KEY (tenant_id, document) REFERENCES saas.documents ON DELETE CASCADE
);
CREATE INDEX documents_shared ON saas.documents (tenant_id) WHERE shared;
CREATE FUNCTION saas.tenant() RETURNS int LANGUAGE sql STABLE
    RETURN nullif(current_setting('app.tenant', true), '')::int;
ALTER TABLE saas.tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE saas.users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE saas.documents ENABLE ROW LEVEL SECURITY;
ALTER TABLE saas.comments ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON saas.tenants USING (id = saas.tenant());
CREATE POLICY own ON saas.users USING (tenant_id = saas.tenant()) WITH CHECK (tenant_id = saas.tenant());
CREATE POLICY own ON saas.documents USING (tenant_id = saas.tenant());
CREATE POLICY shared ON saas.documents AS RESTRICTIVE FOR SELECT USING (
    shared OR EXISTS (SELECT FROM saas.users u WHERE u.tenant_id = documents.tenant_id AND u.id = documents.author)
);
CREATE POLICY readable ON saas.comments FOR SELECT USING (
    EXISTS (SELECT FROM saas.documents d WHERE d.tenant_id = comments.tenant_id AND d.id = comments.document)
);
CREATE VIEW saas.authors WITH (security_barrier) AS
    SELECT t.name, u.login, count(d.id) AS documents
    FROM saas.tenants t JOIN saas.users u ON u.tenant_id = t.id
    LEFT JOIN saas.documents d ON d.tenant_id = u.tenant_id AND d.author = u.id
    GROUP BY t.id, u.login;
INSERT INTO saas.tenants SELECT i, 'tenant ' || i FROM generate_series(1, 20) i;
INSERT INTO saas.users SELECT t, i, 'user ' || i FROM generate_series(1, 20) t, generate_series(1, 20) i;
INSERT INTO saas.documents (tenant_id, author, title, shared)
SELECT 1 + i % 20, 1 + i % 7, 'document ' || i, i % 2 = 0 FROM generate_series(1, 1000) i;
INSERT INTO saas.comments SELECT tenant_id, id, 1, 'fine' FROM saas.documents WHERE shared;
