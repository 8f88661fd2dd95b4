//! Debian's `mosquitto_pub` and `mosquitto_sub` against a broker process.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::broker::Broker;

/// `mosquitto_pub` or `mosquitto_sub`, whose arguments are words; `FOLDER` stands for the broker's folder.
pub fn mosquitto(which: &str, broker: &Broker, address: SocketAddr, words: &str) -> Child {
    let words = words.replace("FOLDER", broker.folder.path().to_str().unwrap());
    let mut command = Command::new(format!("mosquitto_{which}"));
    command.args(["-h", "127.0.0.1", "-p", &address.port().to_string()]).args(words.split_whitespace());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mosquitto-clients is installed")
}

/// Whether it succeeds, and what it says.
pub fn end(child: Child) -> (bool, String) {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Publishes until a subscriber, who is perhaps not there yet, has had what it waits for.
#[track_caller]
pub fn receives(broker: &Broker, mut subscriber: Child, mut publish: impl FnMut()) -> String {
    broker.until("a subscriber receives", || {
        publish();
        subscriber.try_wait().unwrap().is_some()
    });
    end(subscriber).1
}
