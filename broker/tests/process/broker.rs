//! A `mqtt-broker` process on loopback, with a folder of its own; ends when dropped. Shared by the tests that talk to a
//! real broker from outside.

#![allow(dead_code, reason = "not every test uses everything")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The process, and where it keeps its files.
pub struct Broker {
    pub folder: tempfile::TempDir,
    pub admin: SocketAddr,
    process: Child,
}

/// An address that was free a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Broker {
    /// Starts one with this configuration, in which `FOLDER` stands for its folder, and waits until it is ready.
    pub fn start(folder: tempfile::TempDir, config: &str) -> Broker {
        let broker = Broker::spawn(folder, config);
        broker.until("it is ready", || broker.ask("GET /readyz").contains(" 200 "));
        broker
    }

    /// Starts one, and does not wait for anything.
    pub fn spawn(folder: tempfile::TempDir, config: &str) -> Broker {
        let admin = free_address();
        let config = format!("{config}\nadmin: {{ listen: \"{admin}\" }}\nsys_interval_seconds: 1\n");
        let config = config.replace("FOLDER", folder.path().to_str().unwrap());
        std::fs::write(folder.path().join("broker.yaml"), config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"))
            .arg("--config")
            .arg(folder.path().join("broker.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        Broker { folder, admin, process }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The whole answer of the admin server; empty if there is none.
    pub fn ask(&self, what: &str) -> String {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(self.admin) {
            let _ = write!(stream, "{what} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    }

    /// Kills it (SIGKILL), and gives its folder for the next.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    pub fn hang_up(&self) {
        assert!(Command::new("kill").args(["-HUP", &self.process.id().to_string()]).status().unwrap().success());
    }

    #[track_caller]
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            let log = || std::fs::read_to_string(self.path("log")).unwrap();
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the broker's log:\n{}", std::fs::read_to_string(self.path("log")).unwrap_or_default());
        }
    }
}
