//! A broker process on loopback, certificates, and the clients of Mosquitto.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// The longest that anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A broker with a folder of its own.
pub struct Broker {
    pub folder: tempfile::TempDir,
    process: Child,
    pub admin: SocketAddr,
}

/// An address that was free a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Broker {
    /// Starts one with this configuration, in which `FOLDER` stands for its folder.
    pub fn start(folder: tempfile::TempDir, config: &str) -> Broker {
        let admin = free_address();
        let config = format!("{config}\nadmin: {{ listen: \"{admin}\" }}\nsys_interval_seconds: 1\n");
        let config = config.replace("FOLDER", folder.path().to_str().unwrap());
        std::fs::write(folder.path().join("broker.yaml"), config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"))
            .arg("--config")
            .arg(folder.path().join("broker.yaml"))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let broker = Broker { folder, process, admin };
        broker.until("it is ready", || broker.ask("GET /readyz").contains(" 200 "));
        broker
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
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

    pub fn hang_up(&self) {
        assert!(Command::new("kill").args(["-HUP", &self.process.id().to_string()]).status().unwrap().success());
    }

    #[track_caller]
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            let log = || std::fs::read_to_string(self.path("log")).unwrap();
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An authority; writes `NAME.crt`.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    folder: PathBuf,
}

impl Authority {
    pub fn new(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.join(format!("{name}.crt")), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { params, key, folder: folder.to_owned() }
    }

    /// Writes `FILE.crt` and `FILE.key` for these names; the first is the common name too.
    pub fn sign(&self, file: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0].clone());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        std::fs::write(self.folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(self.folder.join(format!("{file}.crt")), signed.pem()).unwrap();
    }
}

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
