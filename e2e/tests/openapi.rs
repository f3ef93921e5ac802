//! `/openapi.json` is what the server does: every operation it names is served as it says.

use flotilla_e2e::admin::{GROUP, SOON, ask, at, get, is_problem, send};
use flotilla_e2e::cluster::Shape;
use flotilla_e2e::command::succeeds;
use flotilla_e2e::http::Answer;
use flotilla_e2e::moves;
use flotilla_e2e::wait;
use serde_json::{Value, json};

/// A node that was emptied.
const EMPTIED: &str = "n3";

/// Whether a value is all that a schema of the document says, and nothing else.
fn fits(document: &Value, schema: &Value, value: &Value) -> bool {
    if let Some(name) = schema["$ref"].as_str() {
        return fits(document, document.pointer(&name[1..]).expect(name), value);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return choices.iter().any(|choice| fits(document, choice, value));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let list = |name: &str| schema[name].as_array();
    let of_kind = list("type").map_or(schema["type"] == kind, |kinds| kinds.contains(&json!(kind)));
    let mut required = list("required").into_iter().flatten().filter_map(Value::as_str);
    let (named, others) = (&schema["properties"], &schema["additionalProperties"]);
    let open = named.is_null() && others.is_null();
    of_kind
        && list("enum").is_none_or(|values| values.contains(value))
        && required.all(|name| value.get(name).is_some())
        && (value.as_array().into_iter().flatten()).all(|item| fits(document, &schema["items"], item))
        && (value.as_object().into_iter().flatten())
            .all(|(name, part)| open || fits(document, named.get(name).unwrap_or(others), part))
}

/// The status, content type and body that the document tells of this operation, for success.
fn is_as_described(document: &Value, operation: &Value, answer: &Answer) -> bool {
    let response = &operation["responses"][answer.status.to_string()];
    let kind = answer.header("content-type").split(';').next().unwrap_or_default();
    let schema = response["content"].get(kind).map(|content| &content["schema"]);
    let body = answer.json().unwrap_or_else(|_| json!(answer.text));
    let described = match schema {
        Some(schema) => fits(document, schema, &body),
        None => response["content"].is_null() && answer.text.is_empty(),
    };
    (200..300).contains(&answer.status) && response.is_object() && described
}

#[test]
fn every_operation_of_the_document_is_served_as_described_and_no_other_method_is() {
    // A Raft group on each node; the last node is emptied and switched off, to be forgotten.
    let mut cluster = Shape::of(3).replicas(1).start().expect("three nodes start");
    let emptied = format!("/v1/nodes/{EMPTIED}");
    ask(&cluster.http(0), "POST", &format!("{emptied}/evacuate"), "");
    wait::until("an empty node", SOON, || {
        Ok((get(&cluster.http(0), &emptied)["evacuated"] == true).then_some(()))
    })
    .expect("emptied");
    cluster.kill(2).expect("kill");
    wait::until("a node that does not live", SOON, || {
        Ok((get(&cluster.http(0), &emptied)["alive"] == false).then_some(()))
    })
    .expect("dead");
    let (http, server) = (cluster.http(0), at(cluster.nodes()[0].ports.remoting));
    http.create_topic("described", 1).expect("topic");
    let message = json!({ "body": "hello", "tag": "a", "keys": ["k"], "properties": { "b": "c" } });
    send(&http, "described", message);
    let read = "--topic described --group readers --from first --count 1 --idle 10";
    succeeds(&format!("consume --server {server} {read}"), "");
    // Two queues that can move: one to look at, the other for the operation that moves one.
    moves::topic_in(&http, "moved", 2, "g2").expect("topic");
    let begun = ask(&http, "POST", "/v1/topics/moved/queues/1/move", r#"{"group":"g1"}"#);
    let id = begun.json().expect("a move")["id"].to_string();
    let document = get(&http, "/openapi.json");
    let mut wrong = String::new();
    // What removes the topic comes last.
    for method in ["get", "put", "post", "patch", "delete"] {
        for (described, methods) in document["paths"].as_object().expect("paths") {
            let group = if described.contains("consumer") {
                "readers"
            } else {
                GROUP
            };
            let topic = if described.ends_with("/move") {
                "moved"
            } else {
                "described"
            };
            let mut path = described.replace("{topic}", topic).replace("{group}", group);
            let node = if described.contains("members") { "n2" } else { EMPTIED };
            path = path
                .replace("{queue}", "0")
                .replace("{id}", &id)
                .replace("{node}", node);
            assert!(!path.contains('{'), "what stands in {path}?");
            if path == "/v1/messages" {
                path.push_str("?topic=described&queue=0&offset=0");
            }
            let operation = &methods[method];
            let body = match operation["operationId"].as_str().unwrap_or_default() {
                "transferLeader" => r#"{"node":"n1"}"#,
                "putTopic" => r#"{"queues":2,"type":"normal","retention":{"time":"1h","bytes":1000000}}"#,
                "send" => r#"{"body":"hello"}"#,
                "addMember" => r#"{"node":"n2"}"#,
                "moveQueue" => r#"{"group":"g1"}"#,
                "rebalance" => r#"{"dry_run":true}"#,
                _ => "",
            };
            let answer = ask(&http, &method.to_uppercase(), &path, body);
            let right = match operation {
                Value::Null => is_problem(&answer, 405, false) && !answer.header("allow").is_empty(),
                operation => is_as_described(&document, operation, &answer),
            };
            if !right {
                wrong.push_str(&format!("{method} {path}: {answer:?}\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
