//! What `/v1` is, for programs: `GET /openapi.json`, made from the table of routes that the router itself is made of.
//!
//! A route is one row of [`super::routes::table`]: its path, its handlers, and beside each handler what it takes and gives.
//! The router and the document are both read off that table, so that neither can have a route that the other lacks. Shapes
//! that several routes share stand in [`schemas`].
//!
//! An attribute on every handler and every record (utoipa) would say less: most answers are put together where they are
//! given, and the records belong to layers that know nothing of HTTP. What the descriptions say is held against what a
//! running node answers (`tests/contract/`), unknown fields included.

pub mod page;
pub mod schemas;

use std::convert::Infallible;
use std::sync::LazyLock;

use axum::Json;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::MethodRouter;
use serde_json::{Map, Value, json};

use super::problem::Code;
use super::{ApiState, guard};

/// A path, who answers on it, and what is to be known about that.
pub struct Route {
    /// The path as the router reads it.
    pub(super) path: &'static str,
    pub(super) methods: MethodRouter<ApiState, Infallible>,
    operations: Vec<Operation>,
}

struct Operation {
    /// As the document names the path; differs from the router's where a handler takes the path apart itself.
    path: String,
    method: Method,
    about: About,
}

impl Route {
    /// Nobody answers on it yet.
    pub(super) fn at(path: &'static str) -> Route {
        Route { path, methods: MethodRouter::new(), operations: Vec::new() }
    }

    /// Who answers one method, and what is to be known about it.
    pub(super) fn answer<H, T>(mut self, method: Method, handler: H, about: About) -> Route
    where
        H: Handler<T, ApiState>,
        T: 'static,
    {
        let filter = method.clone().try_into().expect("a method that routers know");
        self.methods = self.methods.on(filter, handler);
        let path = self.path.replace("{*", "{");
        self.operations.push(Operation { path, method, about });
        self
    }

    /// `GET`.
    pub(super) fn get<H: Handler<T, ApiState>, T: 'static>(self, handler: H, about: About) -> Route {
        self.answer(Method::GET, handler, about)
    }

    /// `POST`.
    pub(super) fn post<H: Handler<T, ApiState>, T: 'static>(self, handler: H, about: About) -> Route {
        self.answer(Method::POST, handler, about)
    }

    /// `PUT`.
    pub(super) fn put<H: Handler<T, ApiState>, T: 'static>(self, handler: H, about: About) -> Route {
        self.answer(Method::PUT, handler, about)
    }

    /// `DELETE`.
    pub(super) fn delete<H: Handler<T, ApiState>, T: 'static>(self, handler: H, about: About) -> Route {
        self.answer(Method::DELETE, handler, about)
    }

    /// `POST` to a handler that takes the end of the path apart itself: one description for each end.
    pub(super) fn actions<H: Handler<T, ApiState>, T: 'static>(
        mut self,
        handler: H,
        actions: impl IntoIterator<Item = (&'static str, About)>,
    ) -> Route {
        self.methods = self.methods.post(handler);
        for (path, about) in actions {
            self.operations.push(Operation { path: path.to_string(), method: Method::POST, about });
        }
        self
    }

    /// Answers that only say what is wrong with the path: no part of the contract.
    pub(super) fn refuses<H: Handler<T, ApiState> + Clone, T: 'static>(mut self, handler: H) -> Route {
        self.methods = axum::routing::get(handler.clone()).put(handler.clone()).delete(handler);
        self
    }
}

/// What is to be known about one operation.
pub struct About {
    id: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<(bool, Value)>,
    answers: Vec<(u16, &'static str, Option<Value>)>,
    codes: Vec<Code>,
}

impl About {
    /// `id` is the operation's name for generated clients; it never changes.
    pub(super) fn new(id: &'static str, summary: &'static str) -> About {
        About { id, summary, parameters: Vec::new(), body: None, answers: Vec::new(), codes: Vec::new() }
    }

    fn parameter(mut self, place: &str, name: &str, schema: Value, about: &str) -> About {
        self.parameters.push(json!({
            "name": name, "in": place, "required": place == "path", "description": about, "schema": schema,
        }));
        self
    }

    /// A part of the path.
    pub(super) fn path(self, name: &str, schema: Value, about: &str) -> About {
        self.parameter("path", name, schema, about)
    }

    /// A parameter of the query.
    pub(super) fn query(self, name: &str, schema: Value, about: &str) -> About {
        self.parameter("query", name, schema, about)
    }

    /// A header of the request.
    pub(super) fn header(self, name: &str, schema: Value, about: &str) -> About {
        self.parameter("header", name, schema, about)
    }

    /// A read of the applied state: how fresh it must be.
    pub(super) fn read(self) -> About {
        let levels = json!({ "type": "string", "enum": ["linearizable", "lease", "stale"],
            "default": "linearizable" });
        self.query("level", levels, "How fresh the answer must be.")
            .query(
                "max_stale",
                schemas::duration(),
                "With level=stale: the longest time since the leader's last word.",
            )
            .forward()
            .fails(&[Code::NoLeader, Code::NotLeader, Code::Timeout, Code::Draining, Code::Damaged])
    }

    /// A page of a list in order.
    pub(super) fn page(self, after: Value) -> About {
        let limit = json!({ "type": "integer", "minimum": 1, "maximum": super::extract::LIMIT_MAX,
            "default": super::extract::LIMIT_DEFAULT });
        self.query("after", after, "Only what comes after; `next` of the page before.").query(
            "limit",
            limit,
            "The size of the page.",
        )
    }

    fn forward(self) -> About {
        let truth = json!({ "type": "boolean", "default": true });
        self.query("forward", truth, "With false: 307 to the leader instead of passing the request on.")
    }

    /// A write that goes through the log.
    pub(super) fn write(self) -> About {
        let number = || json!({ "type": "integer", "minimum": 0 });
        self.forward()
            .header(
                "Idempotency-Key",
                json!({ "type": "string", "maxLength": crate::ledger::command::IDEMPOTENCY_KEY_BYTES_MAX }),
                "A retry with the same key gets the first answer and changes nothing.",
            )
            .header(
                "Super-Node-Session",
                number(),
                "Instead of a key: a session of POST /v1/sessions, with a sequence.",
            )
            .header("Super-Node-Sequence", number(), "The write's number within the session, from 1.")
            .header(
                "Super-Node-Lowest-Unanswered",
                number(),
                "Sequences below this one are answered and may be forgotten.",
            )
            .header(
                "Super-Node-Timeout",
                number(),
                "Milliseconds that the asker waits: within them the node says that nobody leads.",
            )
            .fails(&[
                Code::Conflict,
                Code::SessionExpired,
                Code::KeyExpired,
                Code::NotLeader,
                Code::NoLeader,
                Code::Overloaded,
                Code::Timeout,
                Code::Draining,
                Code::Damaged,
            ])
    }

    /// A write that may depend on a revision.
    pub(super) fn conditional(self) -> About {
        let tag = || json!({ "type": "string" });
        self.header("If-Match", tag(), "Only if the key has this revision, such as \"42\".").header(
            "If-None-Match",
            tag(),
            "With *: only if the key does not exist.",
        )
    }

    /// The JSON body that it takes.
    pub(super) fn body(mut self, schema: Value) -> About {
        self.body = Some((true, schema));
        self.fails(&[Code::TooLarge])
    }

    /// A JSON body that may be left out.
    pub(super) fn may_have_body(mut self, schema: Value) -> About {
        self.body = Some((false, schema));
        self.fails(&[Code::TooLarge])
    }

    /// The answer when all is well: JSON.
    pub(super) fn gives(self, schema: Value) -> About {
        self.gives_as(200, "application/json", Some(schema))
    }

    /// Another answer: a status, a media type, and its shape if it is JSON.
    pub(super) fn gives_as(mut self, status: u16, media: &'static str, schema: Option<Value>) -> About {
        self.answers.push((status, media, schema));
        self
    }

    /// What else may come, as a problem document. `bad_request` always may.
    pub(super) fn fails(mut self, codes: &[Code]) -> About {
        self.codes.extend(codes);
        self
    }

    /// `guarded`: where there are tokens, one is asked for.
    fn as_json(&self, tag: &str, guarded: bool) -> Value {
        let mut answers = Map::new();
        for (status, media, schema) in &self.answers {
            let what = if *status == 304 { "Nothing new." } else { "As asked." };
            let mut answer = json!({ "description": what });
            if !media.is_empty() {
                let shape = schema.as_ref().map_or_else(|| json!({}), |schema| json!({ "schema": schema }));
                answer["content"] = json!({ *media: shape });
            }
            answers.insert(status.to_string(), answer);
        }
        let mut by_status: std::collections::BTreeMap<u16, Vec<&'static str>> =
            std::collections::BTreeMap::new();
        let denials: &[Code] = if guarded { &[Code::Unauthorized, Code::Forbidden] } else { &[] };
        for code in [&[Code::BadRequest][..], denials, &self.codes].concat() {
            let words = by_status.entry(code.status().as_u16()).or_default();
            if !words.contains(&code.as_str()) {
                words.push(code.as_str());
            }
        }
        if self.codes.contains(&Code::Conflict) {
            by_status.entry(412).or_default().push("conflict");
        }
        for (status, words) in by_status {
            let problem = json!({ "description": words.join(", "),
                "content": { "application/problem+json": { "schema": schemas::named("Problem") } } });
            answers.insert(status.to_string(), problem);
        }
        let mut operation = json!({ "tags": [tag], "operationId": self.id, "summary": self.summary });
        if !self.parameters.is_empty() {
            operation["parameters"] = self.parameters.clone().into();
        }
        if let Some((required, schema)) = &self.body {
            operation["requestBody"] =
                json!({ "required": required, "content": { "application/json": { "schema": schema } } });
        }
        operation["responses"] = Value::Object(answers);
        operation
    }
}

/// What an operation is about, by its path: how the page is divided.
fn tag(path: &str) -> &'static str {
    let below = |roots: &[&str]| roots.iter().any(|root| path.starts_with(root));
    if below(&["/v1/kv", "/v1/add"]) {
        "dictionary"
    } else if below(&["/v1/sessions"]) {
        "sessions"
    } else if below(&["/v1/members", "/v1/leader", "/v1/elections", "/v1/recoveries"]) {
        "fleet"
    } else if below(&[
        "/v1/balances",
        "/v1/rewards",
        "/v1/intervals",
        "/v1/claims",
        "/v1/adjustments",
        "/v1/policy",
        "/v1/ledger",
    ]) {
        "ledger"
    } else {
        "node"
    }
}

/// The whole document.
pub fn document(routes: &[Route]) -> Value {
    let mut paths = Map::new();
    for operation in routes.iter().flat_map(|route| &route.operations) {
        let path = paths.entry(operation.path.clone()).or_insert_with(|| json!({}));
        let guarded = guard::needed(&operation.method, &operation.path).is_some();
        path[operation.method.as_str().to_lowercase()] =
            operation.about.as_json(tag(&operation.path), guarded);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "super-node",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Any node takes any request. Every answer carries Super-Node-Id, -Leader, -Term and -Index. \
                            Fields and routes may be added within v1: readers pass over what they do not know.",
        },
        "paths": paths,
        "components": { "schemas": schemas::all() },
    })
}

/// `GET /openapi.json`: from the program alone, whatever state the node is in.
pub(super) async fn serve() -> Json<&'static Value> {
    Json(whole())
}

/// The document of this program.
fn whole() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| document(&super::routes::table()));
    &DOCUMENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_shape_is_used() {
        let document = document(&crate::api::routes::table());
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.strip_prefix('#').expect("a reference into this document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for name in document["components"]["schemas"].as_object().expect("shapes").keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}").as_str()), "{name} is not used");
        }
    }

    #[test]
    fn operations_are_named_once_and_describe_every_part_of_their_path() {
        let document = document(&crate::api::routes::table());
        let mut ids = std::collections::BTreeSet::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                let id = operation["operationId"].as_str().expect("a name");
                assert!(ids.insert(id), "{id} is the name of two operations");
                let none = Vec::new();
                let parameters = operation["parameters"].as_array().unwrap_or(&none);
                let described: Vec<&str> = parameters
                    .iter()
                    .filter(|parameter| parameter["in"] == "path")
                    .filter_map(|parameter| parameter["name"].as_str())
                    .collect();
                let parts: Vec<&str> =
                    path.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect();
                assert_eq!(parts, described, "{method} {path}");
                let mut names: Vec<_> = parameters.iter().map(|parameter| &parameter["name"]).collect();
                names.sort_by_key(|name| name.to_string());
                names.dedup();
                assert_eq!(names.len(), parameters.len(), "{method} {path} has a parameter twice");
            }
        }
        assert!(ids.len() >= 30, "{ids:?}");
    }

    #[test]
    fn the_router_is_made_of_the_table_alone() {
        // A route that is hung into the router beside the table would be missing in the document.
        let source = include_str!("../mod.rs");
        assert_eq!(source.matches(".route(").count(), 1, "add routes to src/api/routes.rs");
        assert_eq!(source.matches(".nest(").count() + source.matches(".merge(").count(), 0);
    }
}
