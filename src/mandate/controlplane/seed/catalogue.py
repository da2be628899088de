"""What enterprises decide about: the domains, kinds of decisions and names that histories are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of decision: an intent, who acts on what, and three signals that policies look at.

    `amounts` are typical values of `number`, ascending; `check` is a boolean that is true in `healthy` of
    all cases; the last of `choices` is the delicate one.
    """

    intent: str
    service: str
    agent: str
    target: str
    number: str
    amounts: tuple[int | float, ...]
    check: str
    healthy: float
    choice: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """A domain as many enterprises have it. `system` is the system of record behind it."""

    name: str
    description: str
    team: str
    system: str
    kinds: tuple[Kind, ...]


_MONEY = (12.5, 49.9, 120, 240, 480, 950, 1800, 4200, 9800, 25000)
_COUNT = (1, 2, 3, 5, 8, 13, 21, 55, 144, 610)
_HOURS = (1, 2, 4, 6, 8, 12, 24, 36, 72, 168)
_SHARE = (0.01, 0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8)

FAMILIES: tuple[Family, ...] = (
    Family(
        "finance",
        "Payments, refunds and credit",
        "Finance Operations",
        "SAP FI",
        (
            Kind("issue_refund", "payments", "Refund Agent", "refund/RF-", "amount", _MONEY,
                 "customer_verified", 0.94, "currency", ("EUR", "USD", "GBP")),
            Kind("pay_invoice", "accounts-payable", "invoice-agent", "invoice/INV-", "amount", _MONEY,
                 "purchase_order_matched", 0.91, "method", ("sepa", "card", "wire")),
            Kind("raise_credit_limit", "credit", "credit-agent", "account/AC-", "increase", _MONEY,
                 "score_current", 0.88, "segment", ("retail", "business", "new")),
        ),
    ),
    Family(
        "logistics",
        "Shipments and inventory",
        "Dispatch",
        "WMS",
        (
            Kind("reroute_shipment", "dispatch", "Route Planner", "shipment/SH-", "delay_hours", _HOURS,
                 "customer_informed", 0.9, "carrier", ("road", "rail", "air")),
            Kind("reorder_stock", "inventory", "stock-agent", "sku/SKU-", "units", _COUNT,
                 "supplier_approved", 0.93, "warehouse", ("north", "south", "bonded")),
            Kind("release_hold", "customs", "customs-agent", "consignment/CN-", "days_held", _COUNT,
                 "documents_complete", 0.87, "goods", ("general", "food", "dual-use")),
        ),
    ),
    Family(
        "procurement",
        "Purchasing and suppliers",
        "Procurement",
        "Ariba",
        (
            Kind("place_order", "purchasing", "buyer-agent", "order/PO-", "amount", _MONEY,
                 "within_budget", 0.9, "category", ("office", "hardware", "services")),
            Kind("onboard_supplier", "suppliers", "supplier-agent", "supplier/SU-", "risk_score", _SHARE,
                 "sanctions_clear", 0.97, "region", ("eu", "na", "other")),
            Kind("accept_quote", "sourcing", "sourcing-agent", "quote/QU-", "amount", _MONEY,
                 "three_quotes", 0.8, "contract", ("frame", "one-off", "multi-year")),
        ),
    ),
    Family(
        "customer-support",
        "Tickets and goodwill",
        "Support",
        "Zendesk",
        (
            Kind("grant_goodwill", "tickets", "support-agent", "ticket/T-", "amount", _MONEY,
                 "customer_verified", 0.95, "tier", ("standard", "gold", "press")),
            Kind("close_account", "accounts", "account-agent", "customer/C-", "open_orders", _COUNT,
                 "owner_confirmed", 0.92, "reason", ("request", "inactive", "abuse")),
            Kind("send_reply", "messaging", "reply-agent", "ticket/T-", "recipients", _COUNT,
                 "tone_checked", 0.97, "channel", ("email", "chat", "public")),
        ),
    ),
    Family(
        "hr",
        "People data",
        "People",
        "Workday",
        (
            Kind("change_salary", "compensation", "hr-agent", "employee/E-", "increase_share", _SHARE,
                 "manager_approved", 0.93, "band", ("junior", "senior", "executive")),
            Kind("export_personal_data", "records", "records-agent", "export/EX-", "subjects", _COUNT,
                 "purpose_recorded", 0.94, "destination", ("internal", "auditor", "third-party")),
            Kind("reject_applicant", "recruiting", "recruiting-agent", "applicant/AP-", "rank", _COUNT,
                 "human_reviewed", 0.85, "ground", ("skills", "capacity", "background")),
        ),
    ),
    Family(
        "infrastructure",
        "Deployments and access",
        "Platform",
        "Kubernetes",
        (
            Kind("deploy_release", "deploy", "release-agent", "service/svc-", "services", _COUNT,
                 "tests_passed", 0.92, "strategy", ("rolling", "canary", "recreate")),
            Kind("scale_cluster", "capacity", "capacity-agent", "cluster/k-", "nodes", _COUNT,
                 "budget_available", 0.95, "pool", ("spot", "standard", "gpu")),
            Kind("delete_volume", "storage", "storage-agent", "volume/vol-", "gigabytes", _COUNT,
                 "snapshot_exists", 0.9, "class", ("scratch", "standard", "archive")),
        ),
    ),
    Family(
        "security",
        "Access, keys and incidents",
        "Security Operations",
        "Okta",
        (
            Kind("grant_access", "identity", "access-agent", "grant/GR-", "hours", _HOURS,
                 "ticket_linked", 0.93, "role", ("reader", "editor", "admin")),
            Kind("rotate_key", "secrets", "Key Agent", "key/KEY-", "age_days", _COUNT,
                 "consumers_known", 0.9, "kind", ("api", "tls", "root")),
            Kind("isolate_host", "response", "response-agent", "host/h-", "score", _SHARE,
                 "on_call_paged", 0.96, "zone", ("office", "dmz", "payment")),
        ),
    ),
    Family(
        "sales",
        "Offers and discounts",
        "Sales Desk",
        "Salesforce",
        (
            Kind("approve_discount", "pricing", "pricing-agent", "offer/OF-", "discount_share", _SHARE,
                 "margin_positive", 0.92, "segment", ("smb", "mid", "strategic")),
            Kind("send_offer", "offers", "offer-agent", "offer/OF-", "amount", _MONEY,
                 "terms_current", 0.96, "language", ("en", "de", "other")),
            Kind("merge_accounts", "crm", "crm-agent", "account/AC-", "records", _COUNT,
                 "owner_confirmed", 0.9, "source", ("crm", "import", "partner")),
        ),
    ),
    Family(
        "marketing",
        "Campaigns and audiences",
        "Campaigns",
        "HubSpot",
        (
            Kind("launch_campaign", "campaigns", "campaign-agent", "campaign/CA-", "budget", _MONEY,
                 "consent_checked", 0.95, "medium", ("email", "social", "tv")),
            Kind("publish_post", "social", "post-agent", "post/PT-", "audience", _COUNT,
                 "legal_reviewed", 0.86, "topic", ("product", "people", "politics")),
            Kind("build_audience", "audiences", "audience-agent", "audience/AU-", "profiles", _COUNT,
                 "consent_checked", 0.93, "source", ("own", "partner", "bought")),
        ),
    ),
    Family(
        "legal",
        "Contracts and claims",
        "Legal",
        "Ironclad",
        (
            Kind("sign_contract", "contracts", "contract-agent", "contract/CT-", "value", _MONEY,
                 "counsel_reviewed", 0.9, "law", ("home", "eu", "foreign")),
            Kind("settle_claim", "claims", "claims-agent", "claim/CL-", "amount", _MONEY,
                 "insurer_informed", 0.92, "kind", ("goods", "service", "injury")),
            Kind("release_document", "documents", "Disclosure Agent", "document/D-", "pages", _COUNT,
                 "privilege_checked", 0.95, "recipient", ("client", "court", "press")),
        ),
    ),
    Family(
        "manufacturing",
        "Lines, recipes and maintenance",
        "Plant Operations",
        "MES",
        (
            Kind("change_recipe", "recipes", "recipe-agent", "recipe/R-", "deviation_share", _SHARE,
                 "lab_released", 0.93, "line", ("pilot", "main", "sterile")),
            Kind("stop_line", "lines", "line-agent", "line/L-", "downtime_hours", _HOURS,
                 "supervisor_informed", 0.94, "cause", ("quality", "safety", "forecast")),
            Kind("order_maintenance", "maintenance", "maintenance-agent", "machine/M-", "hours", _HOURS,
                 "spares_available", 0.9, "urgency", ("planned", "soon", "immediate")),
        ),
    ),
    Family(
        "data_platform",
        "Pipelines, models and data sets",
        "Data Platform",
        "Databricks",
        (
            Kind("share_dataset", "catalogue", "catalogue-agent", "dataset/ds-", "rows_million", _COUNT,
                 "classified", 0.92, "audience", ("team", "company", "public")),
            Kind("promote_model", "models", "model-agent", "model/m-", "drift", _SHARE,
                 "evaluation_passed", 0.9, "use", ("internal", "customer", "credit")),
            Kind("drop_partition", "pipelines", "pipeline-agent", "table/t-", "partitions", _COUNT,
                 "backup_exists", 0.94, "retention", ("expired", "current", "legal-hold")),
        ),
    ),
)  # fmt: skip

# Combined to the names of organizations: 24 * 24 * 6 of them.
FIRST = (
    "Alder", "Amber", "Birch", "Bright", "Cedar", "Clear", "Cobalt", "Copper", "Eden", "Elm", "Fair", "Fern",
    "Glen", "Harbor", "Hazel", "Iron", "Linden", "Maple", "North", "Oak", "River", "Silver", "Stone", "West",
)  # fmt: skip
SECOND = (
    "bank", "bridge", "brook", "burg", "court", "crest", "dale", "field", "ford", "gate", "grove", "haven",
    "hurst", "ley", "mark", "mere", "moor", "point", "ridge", "shaw", "side", "stead", "wick", "wood",
)  # fmt: skip
LAST = ("Group", "Holding", "Industries", "Partners", "Retail", "Systems")
PEOPLE = (
    "a.novak", "b.okafor", "c.lind", "d.moreau", "e.tanaka", "f.rossi", "g.haddad", "h.jensen", "i.silva",
    "j.meyer", "k.osei", "l.petrova",
)  # fmt: skip
