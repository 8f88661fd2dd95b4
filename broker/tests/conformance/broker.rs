//! A `mqtt-broker` process in memory on loopback, and clients that know nothing but bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Step;

/// How long the broker may take to start, or to answer.
const PATIENCE: Duration = Duration::from_secs(20);

const PINGREQ: &[u8] = &[0xc0, 0];
const PINGRESP: &[u8] = &[0xd0, 0];

pub struct Broker {
    process: Child,
    address: SocketAddr,
}

impl Broker {
    pub fn start() -> Broker {
        // The port is free once the listener is dropped.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mqtt-broker"));
        command.args(["--listen", &format!("mqtt://{address}")]).stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.stderr(Stdio::null()).spawn().expect("the broker starts");
        let broker = Broker { process, address };
        let start = Instant::now();
        while let Err(error) = broker.converse(&[Step::Send(crate::CONNECT), Step::Accepted(false)]) {
            assert!(start.elapsed() < PATIENCE, "the broker lets nobody in: {error}");
            std::thread::sleep(Duration::from_millis(50));
        }
        broker
    }

    /// Holds a conversation; says where it went otherwise.
    pub fn converse(&self, steps: &[Step]) -> Result<(), String> {
        let mut client = Client::open(self.address)?;
        for (number, step) in steps.iter().enumerate() {
            let result = match step {
                Step::Again => Client::open(self.address).map(|again| client = again),
                step => client.take(step),
            };
            result.map_err(|error| format!("step {}: {error}", number + 1))?;
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client(TcpStream);

impl Client {
    fn open(address: SocketAddr) -> Result<Client, String> {
        let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(Client(stream))
    }

    fn take(&mut self, step: &Step) -> Result<(), String> {
        let is = |got: Vec<u8>, fits: bool, wanted: &[u8]| match fits {
            true => Ok(()),
            false => Err(format!("{got:02x?} instead of {wanted:02x?}")),
        };
        match step {
            Step::Send(bytes) => self.0.write_all(bytes).map_err(|error| error.to_string()),
            Step::Accepted(present) => {
                let (got, wanted) = (self.packet()?, [u8::from(*present), 0]);
                is(got.clone(), got.first() == Some(&0x20) && got.get(2..4) == Some(&wanted), &wanted)
            }
            Step::Expect(wanted) => self.packet().and_then(|got| is(got.clone(), got == *wanted, wanted)),
            Step::Begins(wanted) => self.packet().and_then(|got| is(got.clone(), got.starts_with(wanted), wanted)),
            Step::Nothing => {
                self.take(&Step::Send(PINGREQ))?;
                self.take(&Step::Expect(PINGRESP))
            }
            Step::Disconnected(reason) => {
                let got = self.packet()?;
                is(got.clone(), got.first() == Some(&0xe0) && got.get(2) == Some(reason), &[0xe0, 1, *reason])?;
                match self.0.read(&mut [0]) {
                    Ok(0) => Ok(()),
                    other => Err(format!("the connection does not end: {other:?}")),
                }
            }
            Step::Again => Ok(()),
        }
    }

    /// The next packet; all that these conversations get have a length of one byte.
    fn packet(&mut self) -> Result<Vec<u8>, String> {
        let mut packet = vec![0; 2];
        self.0.read_exact(&mut packet).map_err(|error| format!("no packet: {error}"))?;
        packet.resize(2 + usize::from(packet[1]), 0);
        self.0.read_exact(&mut packet[2..]).map_err(|error| format!("half a packet: {error}"))?;
        Ok(packet)
    }
}
