//! The shapes of what the routes take and give, as JSON Schema 2020-12.
//!
//! A name that ends in `?` may be missing. An object names all its fields: the contract test fails on a field that a node
//! answers and that is not here. Only what lies open on purpose (`anything`) is passed over.

use serde_json::{Map, Value, json};

/// A reference to one of [`all`].
pub fn named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Any JSON value.
pub fn anything() -> Value {
    json!({})
}

/// A text.
pub fn text() -> Value {
    json!({ "type": "string" })
}

/// A whole number, not below zero.
pub fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

/// A whole number.
pub fn integer() -> Value {
    json!({ "type": "integer" })
}

/// Micro-points, signed.
pub fn amount() -> Value {
    json!({ "type": "integer", "description": "Micro-points: 1 point is 1 000 000." })
}

/// A time.
pub fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

/// A duration such as 500ms.
pub fn duration() -> Value {
    json!({ "type": "string", "examples": ["500ms", "30s"] })
}

fn truth() -> Value {
    json!({ "type": "boolean" })
}

fn hash() -> Value {
    json!({ "type": "string", "description": "SHA-256, hexadecimal." })
}

fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

fn or_null(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// An object of these fields.
pub fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, schema) in fields {
        let bare = name.trim_end_matches('?');
        if bare == name {
            required.push(Value::from(name));
        }
        properties.insert(bare.to_string(), schema);
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

/// A page of a list.
pub fn page(items: Value, next: Value) -> Value {
    object([("items", list(items)), ("next", or_null(next))])
}

/// What a node says of a super-node whose place in the configuration was changed.
fn changed() -> Value {
    object([
        ("id", text()),
        ("kind?", text()),
        ("address?", text()),
        ("role?", one_of(&["leader", "follower", "candidate", "learner", "voter"])),
        ("joining?", truth()),
        ("replaces?", or_null(text())),
        ("already?", truth()),
        ("index?", count()),
        ("term?", count()),
        ("voters?", list(text())),
        ("learners?", list(text())),
    ])
}

fn status() -> Value {
    object([
        ("cluster", text()),
        ("id", text()),
        ("role", one_of(&["leader", "follower", "candidate", "learner"])),
        ("term", count()),
        ("leader", or_null(text())),
        ("commit", count()),
        ("applied", count()),
        ("voters", list(text())),
        ("learners", list(text())),
        ("nodes", list(named("PeerStatus"))),
        (
            "members",
            object([
                ("total", count()),
                ("up", count()),
                ("suspect", count()),
                ("down", count()),
                ("suspended", count()),
            ]),
        ),
        ("interval", object([("open", count()), ("next_settle", count())])),
        ("ledger", object([("records", count()), ("head_hash", hash())])),
        (
            "projection",
            object([
                ("enabled", truth()),
                ("checkpoint", count()),
                ("lag_records", count()),
                ("error", or_null(text())),
            ]),
        ),
        ("version", text()),
        ("url", text()),
        ("identity", or_null(text())),
        ("peer_protocol", count()),
        ("changing", truth()),
        ("removed", truth()),
        ("transfer", or_null(text())),
        ("disk_degraded", truth()),
        ("peer_protocol_max", count()),
        (
            "log",
            object([
                ("base_index", count()),
                ("base_term", count()),
                ("last_index", count()),
                ("durable_index", count()),
            ]),
        ),
        ("disk_full", truth()),
        ("lacks_state", truth()),
        ("in_memory", truth()),
        ("webhooks", list(webhook_status())),
        ("receiving", or_null(object([("from", text()), ("index", count()), ("bytes", count())]))),
    ])
}

fn profile() -> Value {
    let number = || json!({ "type": "number", "minimum": 0 });
    let thread = object([
        ("name", text()),
        ("count", count()),
        ("cpu_percent", number()),
        ("waiting_percent", number()),
    ]);
    object([
        ("id", text()),
        ("seconds", number()),
        ("cpu_percent", number()),
        ("resident_bytes", count()),
        ("threads", list(thread)),
    ])
}

fn self_report() -> Value {
    let latency = object([("median_us", count()), ("worst_us", count())]);
    let link = object([
        ("node", text()),
        ("address", text()),
        ("outgoing", truth()),
        ("incoming", truth()),
        ("protocol", or_null(count())),
        ("trouble", or_null(text())),
    ]);
    object([
        ("id", text()),
        ("cluster", text()),
        ("identity", or_null(text())),
        ("version", text()),
        ("peer_protocol", count()),
        ("peer_protocol_max", count()),
        ("clock_ms", count()),
        ("open_files_max", or_null(count())),
        ("disk", or_null(latency)),
        ("disk_degraded", truth()),
        ("election_min_ms", count()),
        ("links", list(link)),
        ("projection", anything()),
        ("webhooks", list(webhook_status())),
    ])
}

fn webhook_status() -> Value {
    let error = object([("at", text()), ("what", text()), ("lost", truth())]);
    object([("hook", text()), ("place", text()), ("failing", truth()), ("last_error", or_null(error))])
}

fn peer_status() -> Value {
    object([
        ("id", text()),
        ("address", text()),
        ("role", one_of(&["leader", "follower", "candidate", "learner"])),
        ("match", or_null(count())),
        ("lag", or_null(count())),
        ("contact_ms", or_null(count())),
        ("up", truth()),
        ("url", or_null(text())),
        ("joining", truth()),
        ("replaces", or_null(text())),
        ("falls_behind", truth()),
    ])
}

fn problem() -> Value {
    object([
        ("type", text()),
        ("title", text()),
        ("status", count()),
        ("detail", text()),
        ("code", text()),
        ("leader", or_null(text())),
        ("leader_url?", text()),
        ("term", count()),
        ("retryable", truth()),
        ("outcome", one_of(&["not_applied", "applied", "unknown"])),
        ("index?", count()),
        ("hint?", text()),
    ])
}

fn interval() -> Value {
    object([
        ("id", count()),
        ("opened_at", time()),
        ("cut_at", time()),
        ("settled_at", time()),
        ("leader", text()),
        ("term", count()),
        ("index", count()),
        ("policy", count()),
        ("verdict", one_of(&["settled", "void", "correlated"])),
        ("reason", text()),
        ("observers", list(object([("id", text()), ("used", truth()), ("why", text())]))),
        ("members", count()),
        ("rewarded", amount()),
        ("penalised", amount()),
        ("last_seq", count()),
        ("evidence_hash", hash()),
        ("prev_hash", hash()),
        ("hash", hash()),
    ])
}

fn explanation() -> Value {
    let details = object([
        ("interval", named("Interval")),
        ("policy", anything()),
        ("evidence", list(anything())),
        ("score", anything()),
        ("agrees", truth()),
        ("lines", list(text())),
    ]);
    object([
        ("id", object([("i", count()), ("m", text())])),
        ("interval", count()),
        ("member", text()),
        ("sent?", count()),
        ("answered?", count()),
        ("missed?", count()),
        ("availability_ppm?", count()),
        ("p50_us?", count()),
        ("p90_us?", count()),
        ("max_us?", count()),
        ("score_ppm?", count()),
        ("reward?", amount()),
        ("penalty?", amount()),
        ("strikes?", count()),
        ("status?", text()),
        ("by?", anything()),
        ("excused?", truth()),
        ("explanation", details),
    ])
}

fn policy() -> Value {
    object([
        ("revision", count()),
        ("kind", one_of(&["standard", "classic"])),
        ("interval_ms", count()),
        ("ping_ms", count()),
        ("ping_timeout_ms", count()),
        ("reward", amount()),
        ("penalty", amount()),
        ("budget", amount()),
        ("activate_at", count()),
        ("pending?", list(anything())),
        ("index?", count()),
        ("term?", count()),
    ])
}

/// Times are milliseconds, or text such as `60s`. `from` and `to` are for a rehearsal only.
fn policy_change() -> Value {
    let span = || json!({ "anyOf": [count(), text()] });
    object([
        ("revision?", count()),
        ("kind?", one_of(&["standard", "classic"])),
        ("interval?", span()),
        ("ping?", span()),
        ("ping_timeout?", span()),
        ("reward?", amount()),
        ("penalty?", amount()),
        ("budget?", amount()),
        ("activate_at?", count()),
        ("from?", count()),
        ("to?", count()),
    ])
}

/// The shapes that have a name, in the order of the alphabet.
pub fn all() -> Value {
    let fleet_status = || one_of(&["active", "suspended", "probation", "left"]);
    let put = object([("op", json!({ "const": "put" })), ("key", text()), ("value", anything())]);
    let delete = object([("op", json!({ "const": "delete" })), ("key", text())]);
    json!({
        "Adjusted": object([
            ("member", text()),
            ("delta", amount()),
            ("balance", amount()),
            ("record", count()),
            ("index", count()),
            ("term", count()),
        ]),
        "Adjustment": object([
            ("member", text()),
            ("delta", amount()),
            ("reason", text()),
            ("operator", text()),
        ]),
        "Announced": object([
            ("id", text()),
            ("from", count()),
            ("to", count()),
            ("left", count()),
            ("index", count()),
            ("term", count()),
        ]),
        "Balance": object([
            ("member", text()),
            ("balance", amount()),
            ("status", fleet_status()),
            ("strikes", count()),
            ("as_of", count()),
        ]),
        "Batch": object([("operations", list(json!({ "anyOf": [put, delete] })))]),
        "Changed": changed(),
        "Claim": object([("member", text()), ("seq", count()), ("amount", amount())]),
        "Claims": object([("member", text()), ("last_seq", count()), ("receipt", or_null(named("Receipt")))]),
        "Election": object([
            ("id", count()),
            ("term", count()),
            ("leader", text()),
            ("previous", or_null(text())),
            ("reason", text()),
            ("votes", list(text())),
            ("leaderless_ms", count()),
            ("at", time()),
            ("index", count()),
        ]),
        "Entry": object([("key", text()), ("value", anything()), ("revision", count())]),
        "Explanation": explanation(),
        "Interval": interval(),
        "Join": object([
            ("id", text()),
            ("address", text()),
            ("kind?", one_of(&["agent", "super_node"])),
            ("replaces?", or_null(text())),
            ("learner_only?", truth()),
        ]),
        "Listing": object([
            ("items", list(named("Entry"))),
            ("next", or_null(text())),
            ("keys?", count()),
            ("revision?", count()),
            ("more?", truth()),
        ]),
        "Maintenance": object([("intervals", count()), ("from?", or_null(count()))]),
        "Member": object([
            ("id", text()),
            ("kind", one_of(&["node", "agent"])),
            ("address", text()),
            ("status", fleet_status()),
            ("balance", amount()),
            ("strikes", count()),
            ("suspensions", count()),
            ("remaining", count()),
            ("joined_at", time()),
            ("as_of", count()),
            ("index", count()),
        ]),
        "Movement": object([
            ("seq", count()),
            ("member", text()),
            ("kind", one_of(&["reward", "penalty", "claim", "claim_penalty", "adjustment"])),
            ("amount", amount()),
            ("balance", amount()),
            ("interval", or_null(count())),
            ("reason", text()),
            ("index", count()),
            ("term", count()),
            ("at", time()),
            ("prev_hash", hash()),
            ("hash", hash()),
        ]),
        "PeerStatus": peer_status(),
        "Policy": policy(),
        "PolicyChange": policy_change(),
        "Problem": problem(),
        "Receipt": object([
            ("member", text()),
            ("seq", count()),
            ("amount", amount()),
            ("balance", amount()),
            ("record", count()),
            ("index", count()),
            ("term", count()),
            ("at", time()),
        ]),
        "Rehearsal": object([
            ("from", count()),
            ("to", count()),
            ("intervals", count()),
            ("identical", truth()),
            ("verdicts_changed", list(count())),
            ("members", list(object([
                ("member", text()),
                ("recorded", anything()),
                ("rehearsed", anything()),
                ("difference", integer()),
            ]))),
        ]),
        "Session": object([
            ("session", count()),
            ("expires_after_ms?", count()),
            ("index", count()),
            ("term", count()),
        ]),
        "Profile": profile(),
        "Recovery": object([
            ("index", count()),
            ("term", count()),
            ("at", time()),
            ("kind", one_of(&["forced_new_cluster", "restored"])),
            ("node", text()),
            ("previous_identity", text()),
            ("identity", text()),
            ("previous_voters", list(text())),
            ("voters", list(text())),
            ("version", anything()),
        ]),
        "SelfReport": self_report(),
        "Status": status(),
        "Sum": object([
            ("result", integer()),
            ("leader", text()),
            ("node", text()),
            ("index", count()),
        ]),
        "Transfer": object([("to?", or_null(text()))]),
        "Transferred": object([
            ("leader", text()),
            ("term", count()),
            ("previous?", or_null(text())),
            ("already?", truth()),
        ]),
        "Verification": object([
            ("ok", truth()),
            ("records", count()),
            ("intervals", count()),
            ("head_hash", hash()),
            ("interval_hash", hash()),
            ("problems", list(text())),
            ("mongodb?", anything()),
        ]),
        "Written": object([
            ("key?", text()),
            ("revision", count()),
            ("index", count()),
            ("term", count()),
        ]),
    })
}
