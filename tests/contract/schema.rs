//! Holds requests and answers against an OpenAPI document. As much of JSON Schema as the document uses, and stricter in
//! one way: a field that the document does not have is a mistake.

use std::collections::BTreeSet;

use serde_json::Value;

/// An `openapi.json`.
pub struct Document(pub Value);

/// One operation of it.
pub struct Operation {
    pub id: String,
    pub method: String,
    pub path: String,
    /// Names of the parameters in the query.
    pub parameters: BTreeSet<String>,
    whole: Value,
}

impl Document {
    pub fn operations(&self) -> Vec<Operation> {
        let mut all = Vec::new();
        for (path, methods) in self.0["paths"].as_object().expect("paths") {
            for (method, whole) in methods.as_object().expect("methods") {
                let parameters = whole["parameters"].as_array().cloned().unwrap_or_default();
                let in_query = parameters.iter().filter(|parameter| parameter["in"] == "query");
                all.push(Operation {
                    id: whole["operationId"].as_str().expect("a name").to_string(),
                    method: method.clone(),
                    path: path.clone(),
                    parameters: in_query
                        .filter_map(|parameter| parameter["name"].as_str())
                        .map(str::to_string)
                        .collect(),
                    whole: whole.clone(),
                });
            }
        }
        all
    }

    fn operation(&self, id: &str) -> Option<Operation> {
        self.operations().into_iter().find(|operation| operation.id == id)
    }

    /// What is wrong with a request to an operation.
    pub fn check_request(&self, id: &str, method: &str, target: &str, body: Option<&Value>) -> Vec<String> {
        let Some(operation) = self.operation(id) else { return vec![format!("there is no operation {id}")] };
        let mut problems = Vec::new();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if method.to_lowercase() != operation.method || !fits(&operation.path, path) {
            let (method, path) = (&operation.method, &operation.path);
            problems.push(format!("the document has {id} as {method} {path}"));
        }
        let names = query.split('&').filter(|part| !part.is_empty());
        for name in names.map(|part| part.split('=').next().unwrap_or_default()) {
            if !operation.parameters.contains(name) {
                problems.push(format!("the parameter {name} is not in the document"));
            }
        }
        match (body, operation.whole.pointer("/requestBody/content/application~1json/schema")) {
            (Some(body), Some(schema)) => self.check(schema, body, "body", &mut problems),
            (Some(_), None) => problems.push("the document has no body".to_string()),
            (None, _) if operation.whole["requestBody"]["required"] == true => {
                problems.push("the document wants a body".to_string());
            }
            (None, _) => {}
        }
        problems
    }

    /// What is wrong with an answer of an operation.
    pub fn check_answer(&self, id: &str, status: u16, media: &str, body: &Value) -> Vec<String> {
        let Some(operation) = self.operation(id) else { return Vec::new() };
        let response = &operation.whole["responses"][status.to_string()];
        if response.is_null() {
            return vec![format!("the document has no answer with status {status}")];
        }
        let Some(content) = response["content"].as_object() else {
            return if media.is_empty() {
                Vec::new()
            } else {
                vec![format!("{media} where nothing was expected")]
            };
        };
        let Some(described) = content.get(media) else {
            return vec![format!("the media type {media} is not in the document")];
        };
        let mut problems = Vec::new();
        if let Some(schema) = described.get("schema") {
            self.check(schema, body, "answer", &mut problems);
        }
        problems
    }

    fn check(&self, schema: &Value, value: &Value, place: &str, problems: &mut Vec<String>) {
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.trim_start_matches('#');
            let Some(target) = self.0.pointer(pointer) else {
                return problems.push(format!("{place}: {reference} leads nowhere"));
            };
            return self.check(target, value, place, problems);
        }
        if let Some(choices) = schema["anyOf"].as_array() {
            let mut all = Vec::new();
            for choice in choices {
                let mut found = Vec::new();
                self.check(choice, value, place, &mut found);
                if found.is_empty() {
                    return;
                }
                all.extend(found);
            }
            return problems.extend(all);
        }
        if schema.get("const").is_some_and(|only| only != value) {
            problems.push(format!("{place}: {value} is not {}", schema["const"]));
        }
        if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
            problems.push(format!("{place}: {value} is none of {}", schema["enum"]));
        }
        let is = match schema["type"].as_str() {
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            Some("null") => value.is_null(),
            Some(other) => panic!("{place}: the checker does not know the type {other}"),
            None => true,
        };
        if !is {
            return problems.push(format!("{place}: {value} is no {}", schema["type"]));
        }
        if let (Some(least), Some(number)) = (schema["minimum"].as_i64(), value.as_i64())
            && number < least
        {
            problems.push(format!("{place}: {number} is below {least}"));
        }
        for (number, item) in value.as_array().into_iter().flatten().enumerate() {
            if let Some(items) = schema.get("items") {
                self.check(items, item, &format!("{place}[{number}]"), problems);
            }
        }
        if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
            for (name, field) in fields {
                match properties.get(name) {
                    Some(schema) => self.check(schema, field, &format!("{place}.{name}"), problems),
                    None => problems.push(format!(
                        "{place}.{name} is not in the document: describe it in src/api/openapi/schemas.rs"
                    )),
                }
            }
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !fields.contains_key(name) {
                    problems.push(format!("{place}.{name} is missing"));
                }
            }
        }
    }
}

/// Whether a path is one of a template. The last part of a template may take slashes.
fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    let long_enough = template.len() <= path.len();
    long_enough
        && template.iter().zip(&path).all(|(wanted, found)| match wanted.split_once('}') {
            Some((_, end)) => found.ends_with(end),
            None => wanted == found,
        })
        && (template.len() == path.len() || template.last().is_some_and(|last| last.ends_with('}')))
}

#[test]
fn what_does_not_fit_the_document_is_found() {
    let shape = serde_json::json!({
        "type": "object",
        "properties": { "n": { "type": "integer", "minimum": 0 }, "kind": { "enum": ["a", "b"] },
            "list": { "type": "array", "items": { "anyOf": [{ "type": "string" }, { "type": "null" }] } } },
        "required": ["n"],
    });
    let document = Document(serde_json::json!({
        "paths": { "/things/{id}": { "post": {
            "operationId": "do",
            "parameters": [{ "name": "q", "in": "query" }],
            "requestBody": { "required": true, "content": { "application/json": { "schema": shape } } },
            "responses": { "200": { "content": { "application/json": { "schema": shape } } } },
        } } },
    }));
    let answer = |status, media, text: &str| {
        document.check_answer("do", status, media, &serde_json::from_str(text).expect("JSON")).len()
    };
    assert_eq!(answer(200, "application/json", r#"{"n":1,"kind":"a","list":["x",null]}"#), 0);
    for (text, problems) in [
        (r#"{"kind":"a"}"#, 1),
        (r#"{"n":-1}"#, 1),
        (r#"{"n":1.5}"#, 1),
        (r#"{"n":1,"kind":"c"}"#, 1),
        (r#"{"n":1,"more":0}"#, 1),
        (r#"{"n":1,"list":[5]}"#, 2),
        ("[]", 1),
    ] {
        assert_eq!(answer(200, "application/json", text), problems, "{text}");
    }
    assert_eq!(answer(404, "application/json", r#"{"n":1}"#), 1);
    assert_eq!(answer(200, "text/plain", "null"), 1);
    let body = serde_json::json!({"n": 1});
    let request = |id, method, target, body| document.check_request(id, method, target, body).len();
    assert_eq!(request("do", "POST", "/things/1?q=2", Some(&body)), 0);
    assert_eq!(request("do", "GET", "/things/1", Some(&body)), 1);
    assert_eq!(request("do", "POST", "/others/1?p=2", Some(&body)), 2);
    assert_eq!(request("do", "POST", "/things/1", None), 1);
    assert_eq!(request("undo", "POST", "/things/1", Some(&body)), 1);
}
