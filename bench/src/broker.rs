//! The brokers to compare: how each is started, pinned to one core, and what CPU time it has taken.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::wire;

/// How long a broker may take to start.
const START_MAX: Duration = Duration::from_secs(30);
/// How long it may take to answer one CONNECT of [`Running::wait_until_it_accepts`].
const CONNACK_MAX: Duration = Duration::from_secs(2);

/// A program that speaks MQTT.
#[derive(Clone, Debug)]
pub enum Broker {
    /// This project's broker, at this path.
    Ours(PathBuf),
    /// Debian's Mosquitto.
    Mosquitto,
    /// [`crate::floor`].
    Floor,
}

impl Broker {
    /// As the report names it.
    pub fn name(&self) -> &'static str {
        match self {
            Broker::Ours(_) => "mqtt-broker",
            Broker::Mosquitto => "mosquitto",
            Broker::Floor => "floor",
        }
    }

    /// Starts it on a free loopback port, pinned to `core`, and waits until it accepts a client.
    pub fn start(&self, core: usize) -> Result<Running> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = tempfile::tempdir()?;
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string());
        match self {
            Broker::Ours(path) => {
                command.arg(path).args(["--workers", "1", "--listen"]).arg(format!("mqtt://127.0.0.1:{port}"));
            }
            Broker::Mosquitto => {
                let config = folder.path().join("mosquitto.conf");
                // Its own default of 20 messages in flight and 1,000 queued would refuse the windows of the scenarios.
                fs::write(
                    &config,
                    format!(
                        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\n\
                         max_queued_messages 0\nset_tcp_nodelay true\n"
                    ),
                )?;
                command.arg(mosquitto()?).arg("-c").arg(config);
            }
            Broker::Floor => {
                command.arg(std::env::current_exe()?).args(["floor", "--port"]).arg(port.to_string());
            }
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", self.name()))?;
        let mut running = Running { process, address: SocketAddr::from(([127, 0, 0, 1], port)), _folder: folder };
        running.wait_until_it_accepts(self.name())?;
        Ok(running)
    }
}

fn mosquitto() -> Result<&'static Path> {
    ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.exists())
        .context("mosquitto is not installed: apt-get install mosquitto")
}

/// A broker that was started; ends when dropped.
pub struct Running {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Running {
    fn wait_until_it_accepts(&mut self, name: &str) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while let Err(why) = try_connect(self.address) {
            if let Some(status) = self.process.try_wait()? {
                bail!("{name} ended at start: {status}");
            }
            if Instant::now() > deadline {
                bail!("{name} let no client in on {} within {START_MAX:?}: {why}", self.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// CPU time of all its threads so far, from `/proc/PID/task/*/schedstat` (nanoseconds on a core).
    pub fn cpu_time(&self) -> Result<Duration> {
        let mut total_ns = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            total_ns += text.split(' ').next().unwrap_or("0").trim().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total_ns))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `taskset` has become the broker by exec: this is its own process id.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// CONNECT, and an error unless CONNACK accepts it: a broker that listens already may still refuse everybody.
fn try_connect(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(CONNACK_MAX))?;
    stream.write_all(&wire::connect("bench-start"))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    match connack {
        [0x20, 2, _, 0] => stream.write_all(&wire::DISCONNECT),
        other => Err(io::Error::other(format!("answered {other:02x?}"))),
    }
}

/// Keeps this process, the load generator, on `core`.
pub fn pin_self(core: usize) -> Result<()> {
    // SAFETY: `set` is a plain bit set, zeroed, and outlives the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result != 0 {
        bail!("pinning to core {core}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listener that answers the first CONNECT with `connack`.
    fn answering(connack: [u8; 4]) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || -> io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.read_exact(&mut vec![0; wire::connect("bench-start").len()])?;
            stream.write_all(&connack)
        });
        Ok(address)
    }

    #[test]
    fn a_broker_that_listens_but_refuses_has_not_started() {
        let refusing = answering([0x20, 2, 0, 3]).expect("loopback");
        assert!(try_connect(refusing).is_err());
        let accepting = answering([0x20, 2, 0, 0]).expect("loopback");
        assert!(try_connect(accepting).is_ok());
    }
}
