//! One broker for all tests that run at the same time, and names that no two of them share.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::broker::{Broker, PATIENCE, free_address};
use crate::client::Client;
use crate::wire::*;

/// Of the user who is known by a password and by SCRAM.
pub const USER_NAME: &str = "ann";
pub const PASSWORD: &str = "a secret";
/// Publishes above QoS 0 that the broker takes unacknowledged.
pub const RECEIVE_MAXIMUM: u16 = 10;
/// Bytes of the largest packet that it takes.
pub const PACKET_BYTES_MAX: usize = 4096;

/// Milliseconds to CONNECT: more than any test waits, so that none takes this for an end that it waits for.
const CONNECT_MS: u128 = 2 * PATIENCE.as_millis();

/// A broker, and where it listens.
pub struct Stage {
    _broker: Broker,
    /// Anybody may.
    pub plain: SocketAddr,
    /// Only who proves to be somebody may.
    pub users: SocketAddr,
    /// The same as `plain`, in WebSocket.
    pub web: SocketAddr,
}

static STAGE: Mutex<Weak<Stage>> = Mutex::new(Weak::new());
static SCENES: AtomicU32 = AtomicU32::new(0);

/// A test's part of the broker.
pub struct Scene {
    stage: Arc<Stage>,
    pub version: Version,
    number: u32,
}

impl Stage {
    fn set() -> Stage {
        let [plain, users, web] = std::array::from_fn(|_| free_address());
        let folder = tempfile::tempdir().unwrap();
        let mut passwd = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"));
        passwd.args(["passwd", "--scram"]).arg(folder.path().join("users")).arg(USER_NAME);
        let mut passwd = passwd.stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut passwd.stdin.take().unwrap(), format!("{PASSWORD}\n").as_bytes()).unwrap();
        assert!(passwd.wait().unwrap().success());
        let config = format!(
            "
limits: {{ receive_maximum: {RECEIVE_MAXIMUM}, packet_bytes_max: {PACKET_BYTES_MAX}, connect_ms: {CONNECT_MS} }}
auth: {{ password_file: FOLDER/users }}
listeners:
  - {{ url: \"mqtt://{plain}\", allow_anonymous: true }}
  - {{ url: \"mqtt://{users}\", allow_anonymous: false }}
  - {{ url: \"ws://{web}/mqtt\", allow_anonymous: true }}
"
        );
        Stage { _broker: Broker::start(folder, &config), plain, users, web }
    }
}

impl Scene {
    pub fn new(version: Version) -> Scene {
        let mut shared = STAGE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stage = shared.upgrade().unwrap_or_else(|| Arc::new(Stage::set()));
        *shared = Arc::downgrade(&stage);
        Scene { stage, version, number: SCENES.fetch_add(1, Ordering::Relaxed) }
    }

    /// One of each version.
    pub fn both() -> [Scene; 2] {
        [V3, V5].map(Scene::new)
    }

    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// A topic or a client id of this scene's own.
    pub fn name(&self, name: &str) -> String {
        format!("s{}/{name}", self.number)
    }

    pub fn dial(&self) -> Client {
        Client::dial(self.stage.plain, self.version)
    }

    pub fn dial_users(&self) -> Client {
        Client::dial(self.stage.users, self.version)
    }

    pub fn clean(&self, client_id: &str) -> Connect {
        Connect::clean(self.version, &self.name(client_id))
    }

    pub fn kept(&self, client_id: &str) -> Connect {
        Connect::kept(self.version, &self.name(client_id))
    }

    /// Connects; whether a session was present.
    #[track_caller]
    pub fn open(&self, connect: &Connect) -> (Client, bool) {
        let mut client = self.dial();
        client.send(&connect.bytes());
        let present = client.accepted();
        (client, present)
    }

    /// A client with a new session, which ends with its connection.
    #[track_caller]
    pub fn client(&self, client_id: &str) -> Client {
        let (client, present) = self.open(&self.clean(client_id));
        assert!(!present);
        client
    }

    /// A client that may say what is in `bytes` only once.
    #[track_caller]
    pub fn breaks(&self, bytes: &[u8], reason: u8) {
        let mut client = self.client("breaks");
        client.send(bytes);
        client.ended(reason);
    }
}

/// Tries both versions at once, for what takes its time.
pub fn at_the_same_time(attempt: impl Fn(Scene) + Sync) {
    std::thread::scope(|scope| {
        for scene in Scene::both() {
            scope.spawn(|| attempt(scene));
        }
    });
}
