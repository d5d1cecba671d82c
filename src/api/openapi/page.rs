//! The document for people: `GET /docs`, one page made of `/openapi.json`, with nothing from elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::ApiState;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:62rem;padding:1rem;color:#1c2430;background:#fff}\
h1{margin-bottom:0}h2{border-bottom:1px solid #ccd;margin-top:2.5rem}h3{font:600 1rem ui-monospace,monospace;margin:2rem 0 .3rem}h3,td{overflow-wrap:anywhere}\
.m{background:#234;color:#fff;border-radius:3px;padding:.1rem .4rem;margin-right:.5rem}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;border-bottom:1px solid #e4e7ee;padding:.2rem .6rem .2rem 0}\
pre{background:#f4f6fa;padding:.6rem;overflow:auto}code{font:13px ui-monospace,monospace}nav a{margin-right:.8rem}\
@media(prefers-color-scheme:dark){body{background:#14181f;color:#dde3ec}pre{background:#1e2530}td,th{border-color:#2c3542}a{color:#8ab8ff}}";

/// How deep an example goes: shapes may hold themselves.
const DEPTH_MAX: usize = 6;

/// `GET /docs`: from the program alone, whatever state the node is in; only the examples name this node.
pub async fn serve(State(state): State<ApiState>) -> Response {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
        format!(
            "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    });
    let url = state.handle.status.borrow().url.clone();
    let page = render(super::whole(), &url);
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, page).into_response()
}

/// The page of a document; `url` is where its examples ask.
pub fn render(document: &Value, url: &str) -> String {
    let mut by_tag: BTreeMap<&str, Vec<(&str, &str, &Value)>> = BTreeMap::new();
    for (path, methods) in members(&document["paths"]) {
        for (method, operation) in members(methods) {
            let tag = operation["tags"][0].as_str().unwrap_or_default();
            by_tag.entry(tag).or_default().push((path, method, operation));
        }
    }
    let version = escape(document["info"]["version"].as_str().unwrap_or_default());
    let about = escape(document["info"]["description"].as_str().unwrap_or_default());
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>super-node: HTTP</title>\
         <style>{STYLE}</style></head>\n<body><h1>super-node: HTTP</h1>\n<p>Version {version}. {about} \
         Errors are problem documents (RFC 9457) with a <code>code</code>. The same for programs: \
         <a href=\"/openapi.json\">/openapi.json</a>.</p>\n<nav>"
    );
    for tag in by_tag.keys() {
        put(&mut page, format_args!("<a href=\"#{0}\">{0}</a>", escape(tag)));
    }
    page.push_str("</nav>\n");
    for (tag, operations) in &by_tag {
        put(&mut page, format_args!("<h2 id=\"{0}\">{0}</h2>\n", escape(tag)));
        for (path, method, operation) in operations {
            section(&mut page, document, url, (path, method), operation);
        }
    }
    page.push_str("</body></html>\n");
    page
}

fn section(page: &mut String, document: &Value, url: &str, (path, method): (&str, &str), operation: &Value) {
    let word = |value: &Value| escape(value.as_str().unwrap_or_default());
    let id = word(&operation["operationId"]);
    put(
        page,
        format_args!(
            "<section id=\"{id}\"><h3><span class=\"m\">{}</span>{}</h3>\n<p>{}</p>\n",
            method.to_uppercase(),
            escape(path),
            word(&operation["summary"])
        ),
    );
    let none = Vec::new();
    let parameters = operation["parameters"].as_array().unwrap_or(&none);
    if !parameters.is_empty() {
        page.push_str("<table><tr><th>parameter</th><th>in</th><th>what</th></tr>\n");
        for parameter in parameters {
            put(
                page,
                format_args!(
                    "<tr><td><code>{}</code></td><td>{}</td><td>{} <code>{}</code></td></tr>\n",
                    word(&parameter["name"]),
                    word(&parameter["in"]),
                    word(&parameter["description"]),
                    escape(&shape(&parameter["schema"])),
                ),
            );
        }
        page.push_str("</table>\n");
    }
    let body = &operation["requestBody"];
    if body.is_object() {
        let schema = &body["content"]["application/json"]["schema"];
        let optional = if body["required"] == false { " (may be left out)" } else { "" };
        put(
            page,
            format_args!("<p>Body{optional}:</p>\n<pre><code>{}</code></pre>\n", pretty(document, schema)),
        );
    }
    page.push_str("<table><tr><th>answer</th><th>what</th></tr>\n");
    for (status, answer) in members(&operation["responses"]) {
        let content: Vec<(&str, &Value)> = members(&answer["content"]).collect();
        let media = content.first().map_or("", |(media, _)| media);
        put(
            page,
            format_args!(
                "<tr><td><code>{}</code></td><td>{} <code>{}</code></td></tr>\n",
                escape(status),
                word(&answer["description"]),
                escape(media)
            ),
        );
    }
    page.push_str("</table>\n");
    let answered = &operation["responses"]["200"]["content"]["application/json"]["schema"];
    if answered.is_object() {
        let shown = pretty(document, answered);
        put(
            page,
            format_args!("<details><summary>answer</summary><pre><code>{shown}</code></pre></details>\n"),
        );
    }
    let command = escape(&curl(document, url, (path, method), operation));
    put(page, format_args!("<pre><code>{command}</code></pre></section>\n"));
}

/// A call of this operation, with capitals where somebody has to fill something in.
fn curl(document: &Value, url: &str, (path, method): (&str, &str), operation: &Value) -> String {
    let filled: String = path
        .split('{')
        .enumerate()
        .map(|(part, text)| match text.split_once('}') {
            Some((name, rest)) if part > 0 => format!("{}{rest}", name.to_uppercase()),
            _ => text.to_string(),
        })
        .collect();
    let streams = operation["responses"]["200"]["content"]["text/event-stream"].is_object();
    let mut command = format!("curl -s{}", if streams { "N" } else { "" });
    if method != "get" {
        put(&mut command, format_args!(" -X {}", method.to_uppercase()));
    }
    put(&mut command, format_args!(" '{url}{filled}'"));
    if operation["requestBody"]["required"] == true {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        // No example has an apostrophe, which would end the shell's quotes.
        let body = example(document, schema, 0).to_string().replace('\'', "");
        put(&mut command, format_args!(" \\\n  -H 'content-type: application/json' -d '{body}'"));
    }
    command
}

fn pretty(document: &Value, schema: &Value) -> String {
    let example = example(document, schema, 0);
    escape(&serde_json::to_string_pretty(&example).unwrap_or_default())
}

/// A value of a shape.
fn example(document: &Value, schema: &Value, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    let inner = |schema: &Value| example(document, schema, depth + 1);
    if let Some(reference) = schema["$ref"].as_str() {
        return reference
            .strip_prefix('#')
            .and_then(|pointer| document.pointer(pointer))
            .map_or(Value::Null, inner);
    }
    if let Some(first) = ["anyOf", "oneOf"].iter().find_map(|many| schema[*many].get(0)) {
        return inner(first);
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let fields = parts.iter().map(inner).filter_map(|part| part.as_object().cloned());
        return Value::Object(fields.flatten().collect());
    }
    let first = schema["examples"].get(0).or_else(|| schema["enum"].get(0)).or_else(|| schema.get("const"));
    if let Some(first) = first {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let fields = members(&schema["properties"]);
            Value::Object(
                fields.map(|(name, schema)| (name.to_string(), inner(schema))).collect::<Map<_, _>>(),
            )
        }
        Some("array") => Value::Array(vec![inner(&schema["items"])]),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| 0.into()),
        Some("boolean") => Value::Bool(true),
        Some("string") if schema["format"] == "date-time" => "2026-01-31T12:00:00.000Z".into(),
        Some("string") => "text".into(),
        _ => "any JSON".into(),
    }
}

/// What a parameter may be, in a few words.
fn shape(schema: &Value) -> String {
    let mut words = vec![schema["type"].as_str().unwrap_or("any").to_string()];
    if let Some(allowed) = schema["enum"].as_array() {
        words.push(allowed.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "));
    }
    for (key, word) in [("minimum", "from"), ("maximum", "to"), ("default", "default")] {
        if let Some(value) = schema.get(key) {
            words.push(format!("{word} {}", value.to_string().trim_matches('"')));
        }
    }
    if let Some(example) = schema["examples"][0].as_str() {
        words.push(format!("such as {example}"));
    }
    words.join(", ")
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a string does not fail");
}

/// Text that is safe inside HTML and inside its attributes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operation_is_on_the_page_with_its_parameters_codes_and_an_example() {
        let document = super::super::document(&crate::api::routes::table());
        let page = render(&document, "http://127.0.0.1:7400");
        let mut operations = 0;
        for (path, methods) in members(&document["paths"]) {
            for (method, operation) in members(methods) {
                let id = operation["operationId"].as_str().expect("a name");
                let begin =
                    page.find(&format!("<section id=\"{id}\">")).unwrap_or_else(|| panic!("{id} is missing"));
                let section = &page[begin..begin + page[begin..].find("</section>").expect("it ends")];
                let head = format!("<span class=\"m\">{}</span>{path}</h3>", method.to_uppercase());
                assert!(section.contains(&head), "{head} in {section}");
                assert!(section.contains("curl -s"), "{section}");
                for parameter in operation["parameters"].as_array().unwrap_or(&Vec::new()) {
                    let name = parameter["name"].as_str().expect("a name");
                    assert!(section.contains(&format!("<code>{name}</code>")), "{id}: {name}");
                }
                for (status, _) in members(&operation["responses"]) {
                    assert!(section.contains(&format!("<code>{status}</code>")), "{id}: {status}");
                }
                operations += 1;
            }
        }
        assert_eq!(page.matches("<section id=").count(), operations);
        assert!(
            ["dictionary", "sessions", "fleet", "ledger", "node"]
                .iter()
                .all(|tag| page.contains(&format!("<h2 id=\"{tag}\">")))
        );
        let add = page.split("<section id=\"add\">").nth(1).expect("the addition");
        assert!(add.contains("curl -s -X POST &#39;http://127.0.0.1:7400/v1/add&#39;"), "{add}");
        assert!(add.contains("-d &#39;{&quot;a&quot;:0,&quot;b&quot;:0}&#39;"), "{add}");
    }

    #[test]
    fn what_the_document_says_is_text_and_nothing_is_fetched() {
        let evil = "<script>alert('x')</script>&\"";
        let document = json!({ "info": { "version": evil, "description": evil }, "paths": { evil: { "get": {
            "tags": [evil], "operationId": evil, "summary": evil,
            "parameters": [{ "name": evil, "in": evil, "description": evil, "schema": { "type": evil, "default": evil } }],
            "requestBody": { "required": true, "content": { "application/json": { "schema": { "examples": [evil] } } } },
            "responses": { evil: { "description": evil, "content": { evil: {} } } },
        } } } });
        let page = render(&document, "http://h:1");
        assert!(!page.contains("<script") && !page.contains("alert('x')"), "{page}");
        for outside in ["src=", "http-equiv", "<link", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
