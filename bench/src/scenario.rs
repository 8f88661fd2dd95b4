//! Closed-loop load: each publisher has at most a window of messages under way, so that a slow broker gets less load, not
//! a queue.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::wire;

/// Pairs of one publisher and one subscriber on a topic of their own.
#[derive(Clone, Copy, Debug)]
pub struct Pairs {
    /// How many.
    pub pairs: usize,
    /// Bytes.
    pub payload: usize,
    /// Messages sent and not yet delivered, per pair.
    pub window: usize,
    /// 0 or 1, of the publish and the subscription.
    pub qos: u8,
}

/// What was seen between the end of the warm-up and the end of the run.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Messages that reached their subscriber.
    pub delivered: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// CPU time that the broker took for it.
    pub broker_cpu: Duration,
}

impl Measured {
    /// Nanoseconds of one core per delivered message.
    pub fn cpu_ns_per_message(&self) -> f64 {
        self.broker_cpu.as_nanos() as f64 / self.delivered.max(1) as f64
    }

    /// Delivered messages a second.
    pub fn rate(&self) -> f64 {
        self.delivered as f64 / self.elapsed.as_secs_f64()
    }
}

/// Connects, warms up, then measures for `measure`; `cpu` reads the broker's CPU time so far.
pub fn run(
    address: SocketAddr,
    load: Pairs,
    warm_up: Duration,
    measure: Duration,
    cpu: impl Fn() -> Result<Duration>,
) -> Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let delivered = Rc::new(Cell::new(0_u64));
        let failed = Rc::new(Cell::new(None::<String>));
        let mut ready = Vec::new();
        for index in 0..load.pairs {
            ready.push(Pair::connect(address, index, load).await?);
        }
        for pair in ready {
            let (delivered, failed) = (delivered.clone(), failed.clone());
            tokio::task::spawn_local(async move {
                let error = pair.run(&delivered).await.err();
                failed.set(Some(error.map_or("closed by the broker".into(), |error| format!("{error:#}"))));
            });
        }
        tokio::time::sleep(warm_up).await;
        let (cpu_before, delivered_before, start) = (cpu()?, delivered.get(), Instant::now());
        tokio::time::sleep(measure).await;
        let measured = Measured {
            delivered: delivered.get() - delivered_before,
            elapsed: start.elapsed(),
            broker_cpu: cpu()?.saturating_sub(cpu_before),
        };
        if let Some(error) = failed.take() {
            bail!("a connection failed under load: {error}");
        }
        if measured.delivered == 0 {
            bail!("nothing was delivered within {measure:?}");
        }
        Ok(measured)
    })
}

struct Pair {
    publisher: TcpStream,
    subscriber: TcpStream,
    publish: Vec<u8>,
    load: Pairs,
}

impl Pair {
    async fn connect(address: SocketAddr, index: usize, load: Pairs) -> Result<Pair> {
        let topic = format!("bench/pair/{index}");
        let subscriber = open(address, &format!("bench-sub-{index}")).await?;
        exchange(&subscriber, &wire::subscribe(1, &topic, load.qos), 0x90).await.context("SUBSCRIBE")?;
        let publisher = open(address, &format!("bench-pub-{index}")).await?;
        let publish = wire::publish(&topic, load.qos, &vec![b'x'; load.payload]);
        Ok(Pair { publisher, subscriber, publish, load })
    }

    async fn run(mut self, delivered: &Cell<u64>) -> Result<()> {
        let id_offset = wire::packet_id_offset(&self.publish);
        let mut scratch = vec![0_u8; 64 * 1024];
        let (mut from_subscriber, mut from_publisher) = (Vec::new(), Vec::new());
        let (mut to_publisher, mut to_subscriber) = (Vec::new(), Vec::new());
        let (mut credit, mut packet_id) = (self.load.window, 0_u16);
        loop {
            for _ in 0..std::mem::take(&mut credit) {
                if self.load.qos > 0 {
                    packet_id = packet_id.checked_add(1).unwrap_or(1);
                    wire::set_packet_id(&mut self.publish, id_offset, packet_id);
                }
                to_publisher.extend_from_slice(&self.publish);
            }
            write(&self.publisher, &mut to_publisher).await?;
            write(&self.subscriber, &mut to_subscriber).await?;
            tokio::select! {
                biased;
                ready = self.subscriber.readable() => {
                    ready?;
                    if !read(&self.subscriber, &mut scratch, &mut from_subscriber)? {
                        return Ok(());
                    }
                    let mut done = 0;
                    while let Some(length) = wire::packet_len(&from_subscriber[done..]) {
                        let packet = &from_subscriber[done..done + length];
                        if packet[0] >> 4 == 3 {
                            credit += 1;
                            if (packet[0] >> 1) & 3 > 0 {
                                let at = wire::packet_id_offset(packet);
                                to_subscriber.extend_from_slice(&wire::puback([packet[at], packet[at + 1]]));
                            }
                        }
                        done += length;
                    }
                    from_subscriber.drain(..done);
                    delivered.set(delivered.get() + credit as u64);
                }
                ready = self.publisher.readable() => {
                    ready?;
                    if !read(&self.publisher, &mut scratch, &mut from_publisher)? {
                        return Ok(());
                    }
                    from_publisher.clear();
                }
            }
        }
    }
}

async fn open(address: SocketAddr, client_id: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    exchange(&stream, &wire::connect(client_id), 0x20).await.context("CONNECT")?;
    Ok(stream)
}

/// Sends a packet and reads the one answer, which must begin with `expected` and be no refusal.
async fn exchange(stream: &TcpStream, packet: &[u8], expected: u8) -> Result<()> {
    write(stream, &mut packet.to_vec()).await?;
    let (mut scratch, mut answer) = ([0_u8; 64], Vec::new());
    loop {
        stream.readable().await?;
        if !read(stream, &mut scratch, &mut answer)? {
            bail!("closed instead of answering");
        }
        if let Some(length) = wire::packet_len(&answer) {
            if answer[0] != expected || answer[length - 1] >= 0x80 || (expected == 0x20 && answer[3] != 0) {
                bail!("answered {answer:02x?}");
            }
            return Ok(());
        }
    }
}

/// Appends what is there; `false` at the end of the stream.
fn read(stream: &TcpStream, scratch: &mut [u8], buffer: &mut Vec<u8>) -> io::Result<bool> {
    match stream.try_read(scratch) {
        Ok(0) => Ok(false),
        Ok(length) => {
            buffer.extend_from_slice(&scratch[..length]);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

async fn write(stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match stream.try_write(&buffer[done..]) {
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    buffer.clear();
    Ok(())
}
