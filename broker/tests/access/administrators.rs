//! What administrators see and do by the API.

use crate::broker::{Broker, free_address};
use crate::mosquitto::{end, mosquitto};

#[test]
fn retained_messages_are_found_read_and_ended() {
    let address = free_address();
    let config =
        format!("node: {{ workers: 1 }}\nlisteners: [{{ url: \"mqtt://{address}\" }}]\nreplication: {{ shards: 3 }}");
    let broker = Broker::start(tempfile::tempdir().unwrap(), &config);
    for topic in ["home/door", "home/lamp", "work", "$own"] {
        let child = mosquitto("pub", &broker, address, &format!("-q 1 -r -m open -t {topic}"));
        assert_eq!(end(child), (true, String::new()));
    }
    let body = |answer: String| answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    let page = |what: &str| {
        let body = body(broker.ask(&format!("GET /api/v1/retained?{what}")));
        serde_json::from_str::<serde_json::Value>(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    };
    // One at a time, over all shards.
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = page(&format!("limit=1{after}"));
        for message in page["retained"].as_array().unwrap() {
            assert_eq!((&message["qos"], &message["payload_bytes"]), (&1.into(), &4.into()), "{message}");
            found.push(message["topic"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={}", next.replace('/', "%2F"));
    }
    found.sort();
    assert_eq!(found, ["home/door", "home/lamp", "work"]);
    assert_eq!(page("filter=home%2F%2B")["retained"].as_array().unwrap().len(), 2);
    assert_eq!(page("filter=%24own")["retained"][0]["topic"], "$own");

    assert_eq!(body(broker.ask("GET /api/v1/retained/home%2Fdoor")), "open");
    assert!(broker.ask("DELETE /api/v1/retained/home%2Fdoor").contains(" 204 "));
    assert!(broker.ask("GET /api/v1/retained/home%2Fdoor").contains(" 404 "));
    assert!(broker.ask("DELETE /api/v1/retained/home%2Fdoor").contains(" 404 "));
    let sees = mosquitto("sub", &broker, address, "-t home/# -F %t -W 1");
    assert_eq!(end(sees).1.lines().next(), Some("home/lamp"));
}
