//! The floor: the least a broker could do. Exact topics, QoS 0 and 1, no features, no limits, one thread.
//!
//! It shows what the machine and the kernel cost, so that every broker can be told as a multiple of it. A task per
//! connection reads into one shared scratch buffer; bytes are appended to the receivers' output; one task, woken once
//! per turn, writes every output that has grown.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::wire;

struct Connection {
    stream: TcpStream,
    output: RefCell<Output>,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    queued: bool,
    next_packet_id: u16,
}

type Subscriber = (Rc<Connection>, u8);

#[derive(Default)]
struct Floor {
    /// Topic to who wants it at which QoS.
    subscribers: RefCell<HashMap<Vec<u8>, Vec<Subscriber>>>,
    dirty: RefCell<Vec<Rc<Connection>>>,
    flush: Notify,
}

impl Floor {
    fn touch(&self, connection: &Rc<Connection>, output: &mut Output) {
        if !output.queued {
            output.queued = true;
            let mut dirty = self.dirty.borrow_mut();
            if dirty.is_empty() {
                self.flush.notify_one();
            }
            dirty.push(connection.clone());
        }
    }

    fn handle(&self, connection: &Rc<Connection>, packet: &[u8]) {
        let header = wire::header_len(packet);
        let body = &packet[header..];
        match packet[0] >> 4 {
            3 => self.publish(connection, packet, header),
            1 => self.answer(connection, &[0x20, 2, 0, 0]),
            8 => {
                let filter = usize::from(u16::from_be_bytes([body[2], body[3]]));
                let topic = body[4..4 + filter].to_vec();
                let qos = body[4 + filter];
                self.subscribers.borrow_mut().entry(topic).or_default().push((connection.clone(), qos));
                self.answer(connection, &[0x90, 3, body[0], body[1], qos]);
            }
            12 => self.answer(connection, &[0xd0, 0]),
            _ => {}
        }
    }

    fn answer(&self, connection: &Rc<Connection>, bytes: &[u8]) {
        let mut output = connection.output.borrow_mut();
        output.bytes.extend_from_slice(bytes);
        self.touch(connection, &mut output);
    }

    fn publish(&self, connection: &Rc<Connection>, packet: &[u8], header: usize) {
        let topic_end = header + 2 + usize::from(u16::from_be_bytes([packet[header], packet[header + 1]]));
        let published_qos = (packet[0] >> 1) & 3;
        if let Some(subscribers) = self.subscribers.borrow().get(&packet[header + 2..topic_end]) {
            for (subscriber, qos) in subscribers {
                let mut output = subscriber.output.borrow_mut();
                let start = output.bytes.len();
                if published_qos == 0 || *qos > 0 {
                    output.bytes.extend_from_slice(packet);
                    if published_qos > 0 {
                        output.next_packet_id = output.next_packet_id.checked_add(1).unwrap_or(1);
                        let id = output.next_packet_id;
                        wire::set_packet_id(&mut output.bytes, start + topic_end, id);
                    }
                }
                self.touch(subscriber, &mut output);
            }
        }
        if published_qos > 0 {
            self.answer(connection, &wire::puback([packet[topic_end], packet[topic_end + 1]]));
        }
    }
}

/// Serves on `listener` until the process ends.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let floor = Rc::new(Floor::default());
    let scratch = Rc::new(RefCell::new(vec![0_u8; 256 * 1024]));
    let local = LocalSet::new();
    local.spawn_local(flush(floor.clone()));
    local
        .run_until(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let connection = Rc::new(Connection { stream, output: RefCell::default() });
                tokio::task::spawn_local(read(floor.clone(), connection, scratch.clone()));
            }
        })
        .await
}

async fn read(floor: Rc<Floor>, connection: Rc<Connection>, scratch: Rc<RefCell<Vec<u8>>>) {
    let mut partial = Vec::new();
    while connection.stream.readable().await.is_ok() {
        let mut scratch = scratch.borrow_mut();
        let length = match connection.stream.try_read(&mut scratch) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        };
        let mut bytes = &scratch[..length];
        if !partial.is_empty() {
            partial.extend_from_slice(bytes);
            bytes = &partial;
        }
        let mut done = 0;
        while let Some(packet) = wire::packet_len(&bytes[done..]) {
            floor.handle(&connection, &bytes[done..done + packet]);
            done += packet;
        }
        partial = bytes[done..].to_vec();
    }
}

async fn flush(floor: Rc<Floor>) {
    loop {
        floor.flush.notified().await;
        tokio::task::yield_now().await;
        let dirty = std::mem::take(&mut *floor.dirty.borrow_mut());
        for connection in dirty {
            let mut output = connection.output.borrow_mut();
            output.queued = false;
            match connection.stream.try_write(&output.bytes) {
                Ok(written) if written == output.bytes.len() => output.bytes.clear(),
                Ok(written) => {
                    output.bytes.drain(..written);
                    floor.touch(&connection, &mut output);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => floor.touch(&connection, &mut output),
                Err(_) => output.bytes.clear(),
            }
        }
    }
}
