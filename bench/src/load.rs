//! Closed-loop load: each publisher has at most a window of messages under way, so that a slow broker gets less load, not
//! a queue.
//!
//! What a publisher may send is the credit of its *lane*. A message's credit comes back when the last of its receivers has
//! it; its payload begins with the number of its lane.

mod lane;
mod shape;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::client::{self, Client};
use crate::figure::Throughput;
use crate::wire;

use lane::Lane;
pub use shape::Shape;

/// Bytes that are read at once.
const SCRATCH_BYTES: usize = 256 * 1024;
/// Bytes of a payload that tell the lane.
const LANE_BYTES: usize = 4;

/// Who sends how much to whom.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Who to whom.
    pub shape: Shape,
    /// Bytes; at least the four that tell the lane.
    pub payload: usize,
    /// Messages of one publisher that not every receiver has yet.
    pub window: usize,
    /// Of publishes and subscriptions.
    pub qos: u8,
    /// Subscribers have sessions that outlive their connections.
    pub persistent: bool,
    /// For the floor, which knows no wildcards: topics in place of filters that have some.
    pub without_wildcards: bool,
}

/// Connects, warms up, then measures for `measure`; `cpu` reads the broker's CPU time so far.
pub fn run(
    address: SocketAddr,
    load: Load,
    warm_up: Duration,
    measure: Duration,
    cpu: impl Fn() -> Result<Duration>,
) -> Result<Throughput> {
    ensure!(load.payload >= LANE_BYTES, "a payload of {} bytes does not tell its lane", load.payload);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let shared = start(address, load)?;
        tokio::time::sleep(warm_up).await;
        let (cpu_before, delivered_before, start) = (cpu()?, shared.delivered.get(), Instant::now());
        tokio::time::sleep(measure).await;
        let measured = Throughput {
            delivered: shared.delivered.get() - delivered_before,
            elapsed: start.elapsed(),
            broker_cpu: cpu()?.saturating_sub(cpu_before),
        };
        if let Some(error) = shared.failed.take() {
            bail!("a connection failed under load: {error}");
        }
        ensure!(measured.delivered > 0, "nothing was delivered within {measure:?}");
        Ok(measured)
    })
}

/// What the clients of one load share.
struct Shared {
    lanes: Vec<Rc<Lane>>,
    delivered: Cell<u64>,
    failed: RefCell<Option<String>>,
    scratch: RefCell<Vec<u8>>,
}

/// Connects everybody and lets them run, each as a task.
fn start(address: SocketAddr, load: Load) -> Result<Rc<Shared>> {
    let mut plan = load.shape.plan();
    if load.without_wildcards {
        plan = plan.without_wildcards();
    }
    let subscribers: Vec<Client> = plan
        .filters
        .into_iter()
        .enumerate()
        .map(|(number, filter)| Client {
            persistent: load.persistent,
            ..Client::subscriber(format!("bench-sub-{number}"), filter, load.qos)
        })
        .collect();
    let publishers: Vec<Client> =
        (0..plan.topics.len()).map(|number| Client::publisher(format!("bench-pub-{number}"))).collect();
    let subscribers = client::open(address, &subscribers).context("subscribers")?;
    let publishers = client::open(address, &publishers).context("publishers")?;

    let lanes = plan.topics.iter().map(|_| Rc::new(Lane::new(load.window, plan.receivers))).collect();
    let shared = Rc::new(Shared {
        lanes,
        delivered: Cell::new(0),
        failed: RefCell::new(None),
        scratch: RefCell::new(vec![0; SCRATCH_BYTES]),
    });
    for stream in subscribers {
        let stream = into_tokio(stream)?;
        let task = shared.clone();
        spawn(&shared, async move { receive(stream, &task).await });
    }
    for ((number, topics), stream) in plan.topics.iter().enumerate().zip(publishers) {
        let mut payload = vec![b'x'; load.payload];
        payload[..LANE_BYTES].copy_from_slice(&(number as u32).to_be_bytes());
        let publisher = Publisher {
            stream: into_tokio(stream)?,
            lane: shared.lanes[number].clone(),
            packets: topics.iter().map(|topic| wire::publish(topic, load.qos, &payload)).collect(),
            next: 0,
            packet_id: 0,
        };
        let task = shared.clone();
        spawn(&shared, async move { publisher.run(&task).await });
    }
    Ok(shared)
}

/// Runs a client, and keeps why it ended: none should.
fn spawn(shared: &Rc<Shared>, client: impl Future<Output = Result<()>> + 'static) {
    let shared = shared.clone();
    tokio::task::spawn_local(async move {
        let why = client.await.err().map_or("closed by the broker".into(), |error| format!("{error:#}"));
        shared.failed.borrow_mut().get_or_insert(why);
    });
}

struct Publisher {
    stream: TcpStream,
    lane: Rc<Lane>,
    /// One per topic, sent in turn.
    packets: Vec<Vec<u8>>,
    next: usize,
    packet_id: u16,
}

impl Publisher {
    async fn run(mut self, shared: &Shared) -> Result<()> {
        let (mut partial, mut output) = (Vec::new(), Vec::new());
        loop {
            for _ in 0..self.lane.take_credit() {
                self.append_publish(&mut output);
            }
            write(&self.stream, &mut output).await?;
            tokio::select! {
                biased;
                ready = self.stream.readable() => {
                    ready?;
                    let open = read(&self.stream, shared, &mut partial, |packet| {
                        if wire::kind(packet) == wire::PUBREC {
                            wire::release(packet, &mut output);
                        }
                        Ok(())
                    })?;
                    if !open {
                        return Ok(());
                    }
                }
                () = self.lane.granted() => {}
            }
        }
    }

    fn append_publish(&mut self, output: &mut Vec<u8>) {
        let packet = &self.packets[self.next];
        self.next = (self.next + 1) % self.packets.len();
        let start = output.len();
        output.extend_from_slice(packet);
        if wire::qos(packet) > 0 {
            self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
            wire::set_packet_id(output, start + wire::packet_id_offset(packet), self.packet_id);
        }
    }
}

/// Takes what comes to one subscriber. The number of a message within its lane is counted here: only a lane with several
/// receivers needs it, and then there is but one lane.
async fn receive(stream: TcpStream, shared: &Shared) -> Result<()> {
    let (mut partial, mut output) = (Vec::new(), Vec::new());
    let mut received = 0_u64;
    loop {
        stream.readable().await?;
        let before = received;
        let open = read(&stream, shared, &mut partial, |packet| {
            match wire::kind(packet) {
                wire::PUBLISH => {
                    lane_of(packet, shared)?.received(received)?;
                    received += 1;
                    wire::acknowledge(packet, &mut output);
                }
                wire::PUBREL => wire::complete(packet, &mut output),
                _ => {}
            }
            Ok(())
        })?;
        if !open {
            return Ok(());
        }
        shared.delivered.set(shared.delivered.get() + received - before);
        write(&stream, &mut output).await?;
    }
}

fn lane_of<'s>(publish: &[u8], shared: &'s Shared) -> Result<&'s Lane> {
    let number = wire::payload(publish).first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let lane = number.and_then(|number| shared.lanes.get(number as usize));
    Ok(lane.context("a message that nobody sent")?)
}

/// Reads what is there and gives each whole packet to `take`; `partial` keeps the rest. `false` at the end of the stream.
fn read(
    stream: &TcpStream,
    shared: &Shared,
    partial: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<bool> {
    let mut scratch = shared.scratch.borrow_mut();
    let length = match stream.try_read(&mut scratch) {
        Ok(0) => return Ok(false),
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = &scratch[..length];
    if !partial.is_empty() {
        partial.extend_from_slice(bytes);
        bytes = partial;
    }
    let mut done = 0;
    while let Some(length) = wire::packet_len(&bytes[done..]) {
        take(&bytes[done..done + length])?;
        done += length;
    }
    if partial.is_empty() {
        partial.extend_from_slice(&scratch[done..length]);
    } else {
        partial.drain(..done);
    }
    Ok(true)
}

async fn write(stream: &TcpStream, output: &mut Vec<u8>) -> io::Result<()> {
    let mut done = 0;
    while done < output.len() {
        match stream.try_write(&output[done..]) {
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    output.clear();
    Ok(())
}

fn into_tokio(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

#[cfg(test)]
mod tests;
