//! A broker process on free loopback ports; ends when dropped.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The levels of service that rounds are done with.
pub const QOS: [&str; 3] = ["0", "1", "2"];

/// The process, and where it listens.
pub struct Broker {
    process: Child,
    pub port: u16,
    pub urls: Vec<String>,
    _data: tempfile::TempDir,
}

impl Broker {
    /// Starts one that keeps its data, and returns as soon as it accepts.
    pub fn start() -> Result<Broker> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let urls = vec![format!("mqtt://127.0.0.1:{port}")];
        let data = tempfile::tempdir()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"));
        command.arg("--data-dir").arg(data.path());
        for url in &urls {
            command.args(["--listen", url]);
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut broker = Broker { process, port, urls, _data: data };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = broker.process.try_wait()? {
                bail!("the broker ended at its start: {status}");
            }
            if Instant::now() > deadline {
                bail!("the broker did not accept on port {port} within 30 s");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(broker)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
