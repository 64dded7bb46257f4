//! The examples of the documentation are what happens.

use serde_json::Value;

use super::http::{request, send_raw};
use super::node::Node;

const REST_PAGE: &str = include_str!("../../../docs/rest-api.md");

/// A command of the documentation, and what it is answered there.
struct Example {
    command: String,
    answer: String,
    status: u16,
}

/// The blocks of ```` ```console ````: a command, its answer, and a comment with the status unless that is 200.
fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for block in page.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                examples.push(Example { command: command.to_owned(), answer: String::new(), status: 200 });
            } else if let Some(comment) = line.strip_prefix("# ") {
                examples.last_mut().unwrap().status = comment.split(' ').next().unwrap().parse().unwrap();
            } else {
                examples.last_mut().unwrap().answer.push_str(line);
            }
        }
    }
    examples
}

/// Words, of which those in single quotes may hold spaces.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (place, part) in command.split('\'').enumerate() {
        if place % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// The request that curl would send.
fn curl(command: &str) -> Vec<u8> {
    let words = words(command);
    let mut words = words.iter().map(String::as_str);
    assert_eq!(words.next(), Some("curl"), "{command}");
    let (mut method, mut path, mut body, mut content_type) = ("GET", "", "", None);
    while let Some(word) = words.next() {
        match word {
            "-X" => method = words.next().unwrap(),
            "-d" => body = words.next().unwrap(),
            "-H" => content_type = words.next().unwrap().strip_prefix("Content-Type: "),
            url => path = url.strip_prefix("http://localhost:8080").unwrap_or_else(|| panic!("{command}: {url}")),
        }
    }
    request(method, path, content_type, body.as_bytes())
}

/// Times and counters are other ones with every run.
fn still(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                let moves = ["timestamp", "counter", "expiresAt", "next", "epoch", "tookMs", "sentMs", "answeredMs"]
                    .contains(&name.as_str());
                *field = if moves { Value::from(0) } else { still(field.take()) };
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = still(item.take())),
        _ => {}
    }
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_of_the_rest_api_is_what_happens() {
    let node = Node::alone().await;
    let examples = examples(REST_PAGE);
    assert!(examples.len() >= 20, "the examples are found");
    for Example { command, answer, status } in examples {
        let documented: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{command}: {error}"));
        let told = send_raw(node.http, &curl(&command)).await;
        assert_eq!(told.status, status, "{command}: {told:?}");
        assert_eq!(still(told.body), still(documented), "{command}");
    }
}
