//! A network in memory: hosts, streams with latency, cuts that swallow, deaths that reset.
//!
//! It runs on one thread and on tokio's clock, so that a simulation with a paused clock and a seed repeats itself. Bytes
//! are never lost or reordered inside a stream (TCP sees to that): a cut holds them back, and whoever waits too long
//! gives up by himself.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::{Accept, BoxStream, Listener, Net};
use crate::cluster::mesh::LocalFuture;

/// How many bytes of one direction may be on their way: a socket's buffers.
const WINDOW_BYTES: usize = 1 << 20;

/// The network between hosts, in the hands of a test.
#[derive(Clone)]
pub struct MemoryNet {
    state: Rc<RefCell<State>>,
}

struct State {
    rng: SmallRng,
    latency_us: (u64, u64),
    listeners: BTreeMap<String, mpsc::UnboundedSender<BoxStream>>,
    cuts: BTreeSet<(String, String)>,
    pipes: Vec<std::rc::Weak<RefCell<Pipe>>>,
}

/// One direction of one stream.
struct Pipe {
    from: String,
    to: String,
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// The writer has closed it: end of file after the last chunk.
    finished: bool,
    /// An end has died: an error at once.
    reset: bool,
    cut: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl MemoryNet {
    /// A network whose latencies come from `seed`, between 50 and 300 microseconds one way.
    pub fn new(seed: u64) -> MemoryNet {
        MemoryNet {
            state: Rc::new(RefCell::new(State {
                rng: SmallRng::seed_from_u64(seed),
                latency_us: (50, 300),
                listeners: BTreeMap::new(),
                cuts: BTreeSet::new(),
                pipes: Vec::new(),
            })),
        }
    }

    /// Least and greatest latency one way from now on, in microseconds.
    pub fn set_latency_us(&self, least: u64, greatest: u64) {
        self.state.borrow_mut().latency_us = (least, greatest.max(least));
    }

    /// The network as `host` sees it. Its addresses are `host:port`.
    pub fn host(&self, host: &str) -> Rc<dyn Net> {
        Rc::new(Host { net: self.clone(), name: host.to_string() })
    }

    /// Nothing passes between two hosts from now on, in neither direction, until [`MemoryNet::heal`].
    pub fn cut(&self, a: &str, b: &str) {
        self.set_cut(a, b, true);
    }

    /// Undoes [`MemoryNet::cut`]; what was held back arrives.
    pub fn heal(&self, a: &str, b: &str) {
        self.set_cut(a, b, false);
    }

    fn set_cut(&self, a: &str, b: &str, cut: bool) {
        let mut state = self.state.borrow_mut();
        for pair in [pair(a, b), pair(b, a)] {
            if cut {
                state.cuts.insert(pair);
            } else {
                state.cuts.remove(&pair);
            }
        }
        state.each_pipe(|pipe| {
            if (pipe.from == a && pipe.to == b) || (pipe.from == b && pipe.to == a) {
                pipe.cut = cut;
                pipe.wake();
            }
        });
    }

    /// The process on `host` is gone: its listeners close and its streams break, where no cut hides it.
    pub fn kill(&self, host: &str) {
        let mut state = self.state.borrow_mut();
        state.listeners.retain(|address, _| host_of(address) != host);
        state.each_pipe(|pipe| {
            if pipe.from == host || pipe.to == host {
                pipe.reset = true;
                pipe.wake();
            }
        });
    }
}

impl State {
    fn each_pipe(&mut self, mut act: impl FnMut(&mut Pipe)) {
        self.pipes.retain(|pipe| match pipe.upgrade() {
            Some(pipe) => {
                act(&mut pipe.borrow_mut());
                true
            }
            None => false,
        });
    }

    fn pipe(&mut self, from: &str, to: &str) -> Rc<RefCell<Pipe>> {
        let pipe = Rc::new(RefCell::new(Pipe {
            from: from.to_string(),
            to: to.to_string(),
            chunks: VecDeque::new(),
            bytes: 0,
            finished: false,
            reset: false,
            cut: false,
            reader: None,
            writer: None,
        }));
        self.pipes.push(Rc::downgrade(&pipe));
        pipe
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.to_string(), b.to_string())
}

fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

struct Host {
    net: MemoryNet,
    name: String,
}

impl Net for Host {
    fn listen(&self, address: &str) -> LocalFuture<io::Result<Box<dyn Listener>>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.net.state.borrow_mut();
        state.listeners.insert(address.to_string(), sender);
        let listener: Box<dyn Listener> = Box::new(Incoming { receiver });
        Box::pin(async move { Ok(listener) })
    }

    fn connect(&self, address: &str) -> LocalFuture<io::Result<BoxStream>> {
        let net = self.net.clone();
        let from = self.name.clone();
        let address = address.to_string();
        Box::pin(async move {
            let to = host_of(&address).to_string();
            let latency = net.latency();
            tokio::time::sleep(latency * 2).await;
            if net.state.borrow().cuts.contains(&pair(&from, &to)) {
                return std::future::pending().await;
            }
            let mut state = net.state.borrow_mut();
            let Some(listener) = state.listeners.get(&address).cloned() else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let there = state.pipe(&from, &to);
            let back = state.pipe(&to, &from);
            drop(state);
            let accepted = End::new(net.clone(), there.clone(), back.clone());
            if listener.send(Box::new(accepted)).is_err() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(Box::new(End::new(net.clone(), back, there)) as BoxStream)
        })
    }

    fn resolve(&self, peer: &str) -> LocalFuture<io::Result<Vec<String>>> {
        let peer = peer.strip_prefix("dns://").unwrap_or(peer).to_string();
        Box::pin(async move { Ok(vec![peer]) })
    }
}

impl MemoryNet {
    fn latency(&self) -> Duration {
        let mut state = self.state.borrow_mut();
        let (least, greatest) = state.latency_us;
        Duration::from_micros(state.rng.random_range(least..=greatest))
    }
}

struct Incoming {
    receiver: mpsc::UnboundedReceiver<BoxStream>,
}

impl Listener for Incoming {
    fn accept(&mut self) -> Accept<'_> {
        Box::pin(async move {
            match self.receiver.recv().await {
                Some(stream) => {
                    let ready: LocalFuture<io::Result<BoxStream>> = Box::pin(async move { Ok(stream) });
                    Ok(ready)
                }
                None => Err(io::ErrorKind::NotConnected.into()),
            }
        })
    }
}

/// One end of a stream.
struct End {
    net: MemoryNet,
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
    /// Wakes the reader when the next chunk has arrived.
    arrival: Option<Pin<Box<Sleep>>>,
}

impl End {
    fn new(net: MemoryNet, incoming: Rc<RefCell<Pipe>>, outgoing: Rc<RefCell<Pipe>>) -> End {
        End { net, incoming, outgoing, arrival: None }
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let incoming = self.incoming.clone();
        let pipe = &mut *incoming.borrow_mut();
        if !pipe.cut {
            if pipe.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            match pipe.chunks.front_mut() {
                Some((at, chunk)) if *at <= Instant::now() => {
                    let taken = chunk.len().min(buffer.remaining());
                    buffer.put_slice(&chunk[..taken]);
                    chunk.drain(..taken);
                    if chunk.is_empty() {
                        pipe.chunks.pop_front();
                    }
                    pipe.bytes -= taken;
                    if let Some(writer) = pipe.writer.take() {
                        writer.wake();
                    }
                    return Poll::Ready(Ok(()));
                }
                Some((at, _)) => {
                    let mut sleep = Box::pin(tokio::time::sleep_until(*at));
                    let _ = sleep.as_mut().poll(context);
                    self.arrival = Some(sleep);
                }
                None if pipe.finished => return Poll::Ready(Ok(())),
                None => {}
            }
        }
        pipe.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let latency = self.net.latency();
        let mut pipe = self.outgoing.borrow_mut();
        if pipe.reset && !pipe.cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pipe.bytes >= WINDOW_BYTES {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = bytes.len().min(WINDOW_BYTES - pipe.bytes);
        let after = pipe.chunks.back().map(|(at, _)| *at);
        let at = (Instant::now() + latency).max(after.unwrap_or_else(Instant::now));
        pipe.chunks.push_back((at, bytes[..taken].to_vec()));
        pipe.bytes += taken;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.outgoing.borrow_mut();
        pipe.finished = true;
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.outgoing.borrow_mut().finished = true;
        self.outgoing.borrow_mut().wake();
        // Nobody reads what still comes: the writer learns it as from a closed socket.
        let mut incoming = self.incoming.borrow_mut();
        incoming.reset = true;
        incoming.wake();
    }
}
