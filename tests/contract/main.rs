//! What `/v1` promises: recorded requests of v1 clients against a running node, and every answer against the
//! `openapi.json` that the node itself serves.
//!
//! `v1/*.json` holds the requests in the order of the files' names, each with what its first version answered: the status,
//! and the fields that clients rely on. They are never changed, only added to: whatever breaks one of them breaks clients.

#[path = "../support/cluster.rs"]
mod cluster;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cluster::{Cluster, Setup};
use serde::Deserialize;
use serde_json::Value;

use schema::Document;

/// One recorded request, and what a client relies on in its answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    /// `operationId` in the document.
    operation: String,
    method: String,
    /// With `{name}` for what an earlier answer gave.
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<Value>,
    status: u16,
    /// JSON pointers of fields with the kind that they have: `string`, `number`, `boolean`, `array`, `object`, `null`, `any`.
    #[serde(default)]
    fields: BTreeMap<String, String>,
    /// What later requests refer to, by JSON pointer.
    #[serde(default)]
    keep: BTreeMap<String, String>,
}

fn recorded() -> Vec<Recorded> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/v1");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        let requests: Vec<Recorded> =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        all.extend(requests);
    }
    all
}

/// A node with a settled interval in which an agent was judged.
async fn node() -> (Cluster, BTreeMap<String, String>) {
    let setup = Setup::nodes(1)
        .with("SUPER_NODE_NODE__IN_MEMORY", "true")
        .with("SUPER_NODE_LEDGER__INTERVAL", "500ms")
        .with("SUPER_NODE_LEDGER__PING", "50ms")
        .with("SUPER_NODE_LEDGER__PING_TIMEOUT", "40ms");
    let mut cluster = Cluster::start(&setup);
    let (_, term) = cluster.leader().await;
    cluster.start_agent("worker-1");
    let interval = cluster
        .wait_for("the agent is judged", async || {
            let page = cluster.try_get(0, "/v1/intervals?member=worker-1&limit=1").await?;
            page["items"][0]["id"].as_u64()
        })
        .await;
    let known = [("interval", interval.to_string()), ("term", term.to_string())];
    (cluster, known.map(|(name, value)| (name.to_string(), value)).into())
}

fn filled(text: &str, known: &BTreeMap<String, String>) -> String {
    known.iter().fold(text.to_string(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

struct Answer {
    status: u16,
    media: String,
    text: String,
    json: Value,
}

async fn ask(cluster: &Cluster, request: &Recorded, known: &BTreeMap<String, String>) -> Answer {
    let url = format!("{}{}", cluster.nodes[0].url(), filled(&request.path, known));
    let method = request.method.parse().expect("a method");
    let mut asked = cluster.http.request(method, &url);
    for (name, value) in &request.headers {
        asked = asked.header(name, filled(value, known));
    }
    if let Some(body) = &request.body {
        asked = asked.json(body);
    }
    let answer = asked.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let status = answer.status().as_u16();
    let media = answer.headers().get("content-type").map_or("", |value| value.to_str().expect("ASCII"));
    let media = media.split(';').next().unwrap_or_default().to_string();
    let text = answer.text().await.expect("a body");
    let json = if media.ends_with("json") { serde_json::from_str(&text).expect("JSON") } else { Value::Null };
    Answer { status, media, text, json }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[tokio::test]
async fn requests_of_old_clients_are_answered_as_ever_and_as_the_document_says() {
    let (cluster, mut known) = node().await;
    let document = Document(cluster.get(0, "/openapi.json").await);
    let mut problems = Vec::new();
    let mut asked = BTreeSet::new();
    for request in recorded() {
        let answer = ask(&cluster, &request, &known).await;
        let name = format!("{} {} ({})", request.method, request.path, request.operation);
        // As ever.
        if answer.status != request.status {
            problems.push(format!("{name}: status {}, recorded {}", answer.status, request.status));
        }
        for (pointer, wanted) in &request.fields {
            match answer.json.pointer(pointer) {
                None => problems.push(format!("{name}: {pointer} is missing in {}", answer.text)),
                Some(found) if wanted != "any" && kind(found) != wanted => {
                    problems.push(format!("{name}: {pointer} is {found}, recorded as {wanted}"));
                }
                Some(_) => {}
            }
        }
        for (into, pointer) in &request.keep {
            let value = answer.json.pointer(pointer).map(ToString::to_string).unwrap_or_default();
            known.insert(into.clone(), value);
        }
        // As the document says.
        problems.extend(
            document
                .check_request(
                    &request.operation,
                    &request.method,
                    &filled(&request.path, &known),
                    request.body.as_ref(),
                )
                .into_iter()
                .chain(document.check_answer(&request.operation, answer.status, &answer.media, &answer.json))
                .map(|problem| format!("{name}: {problem}")),
        );
        asked.insert(request.operation);
    }
    for operation in document.operations() {
        if !asked.contains(&operation.id) {
            problems.push(format!("no recorded request for {}: add one to tests/contract/v1/", operation.id));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[tokio::test]
async fn the_document_has_the_parameters_that_the_node_reads_and_paths_that_exist() {
    let (cluster, known) = node().await;
    let document = Document(cluster.get(0, "/openapi.json").await);
    let mut compared = 0;
    for operation in document.operations() {
        let mut path = filled(&operation.path.replace("{id}/members", "{interval}/members"), &known);
        path = path.replace("{id}", "1").replace("{member}", "worker-1").replace("{key}", "k");
        let url = format!("{}{path}?no-such-parameter=1", cluster.nodes[0].url());
        let method: reqwest::Method = operation.method.to_uppercase().parse().expect("a method");
        let answer = cluster.http.request(method, &url).send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("text");
        assert_ne!(status, 405, "{} {path}: {text}", operation.method);
        assert!(!text.contains("no such path"), "{} {path}: {text}", operation.method);
        if operation.method != "get" || status != 400 {
            continue;
        }
        let hint = serde_json::from_str::<Value>(&text).expect("a problem")["hint"].clone();
        let hint = hint.as_str().unwrap_or_default();
        let read: BTreeSet<String> = hint
            .split_once("Known: ")
            .map_or(BTreeSet::new(), |(_, names)| names.split(", ").map(str::to_string).collect());
        assert_eq!(read, operation.parameters, "{}", operation.id);
        compared += 1;
    }
    assert!(compared >= 15, "only {compared} operations told which parameters they read");
    // Beside the document there is nothing: neither a path nor a method.
    for (method, path) in
        [("GET", "/v1"), ("GET", "/v1/nothing"), ("PATCH", "/v1/kv/k"), ("PUT", "/v1/status")]
    {
        let url = format!("{}{path}", cluster.nodes[0].url());
        let answer = cluster.http.request(method.parse().expect("a method"), &url).send().await;
        let status = answer.expect("an answer").status().as_u16();
        assert!(status == 404 || status == 405, "{method} {path}: {status}");
    }
}
