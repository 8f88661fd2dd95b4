//! Every bound has its name here. What is the same in every installation is a constant; what an operator may set comes
//! from the configuration, with the default named here.

/// Levels of a topic name or filter. More are refused: 0x90 Topic Name invalid, 0x8F Topic Filter invalid.
pub const TOPIC_LEVELS_MAX: usize = 128;

/// Bytes of a client id. Longer ones are refused: 0x85 Client Identifier not valid.
pub const CLIENT_ID_BYTES_MAX: usize = 1024;

/// Topics whose matches a worker remembers.
pub const TOPIC_CACHE_TOPICS_MAX: usize = 16 * 1024;
/// Longer topics are matched anew each time.
pub const TOPIC_CACHE_TOPIC_BYTES_MAX: usize = 256;
/// Topics that match more filters than this are matched anew each time.
pub const TOPIC_CACHE_FILTERS_MAX: usize = 256;

/// Slices of one vectored write.
pub const WRITE_SLICES_MAX: usize = 64;
/// A written-out buffer larger than this is freed, not kept for the next connection.
pub const SPARE_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Written-out buffers that a worker keeps.
pub const SPARE_BUFFERS_MAX: usize = 512;
/// Payloads from this size on are shared by the clients they go to; smaller ones are copied to each.
pub const SHARED_PAYLOAD_BYTES_MIN: usize = 4 * 1024;

/// Connections that the system keeps until they are accepted.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Milliseconds from a failed accept to the next.
pub const ACCEPT_RETRY_MS: u64 = 20;
/// Accepted connections on their way to a worker. At the bound the listener waits.
pub const ACCEPTED_MAX: usize = 1024;
/// Bytes of the head of a request for WebSocket. Longer ones are closed.
pub const HTTP_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Headers of it.
pub const HTTP_HEADERS_MAX: usize = 64;
/// Questions of administrators that wait for one worker. At the bound they wait outside.
pub const ASKS_MAX: usize = 64;
/// Items of one page of the admin API.
pub const ADMIN_PAGE_MAX: usize = 1000;
/// Bytes of topics, properties and payloads of the retained messages that one page of the admin API is about, the last
/// few not counted. At the bound a page has fewer items.
pub const ADMIN_RETAINED_BYTES_MAX: usize = 4 << 20;
/// How often in one turn a client's output is filled again from what waits for it.
pub const PUMPS_PER_TURN_MAX: usize = 4;
/// Milliseconds of one tick of a worker's timer: how exactly keep-alive and time-outs are kept.
pub const TICK_MS: u64 = 100;
/// Milliseconds that clients stay connected to a node that has lost the majority, in case it comes back (K3).
pub const CUT_OFF_MS: u64 = 1_000;
/// Ticks of one turn of a worker's timer wheel.
pub const WHEEL_TICKS: u32 = 1024;
/// Bytes of a worker's read buffer: how much is read from a connection at once.
pub const SCRATCH_BYTES: usize = 64 * 1024;
/// Packets from this size on are gathered in a buffer of their own.
pub const LARGE_PACKET_BYTES_MIN: usize = 16 * 1024;

/// What an operator may set about clients. Every value has a default that suits one node of a few gigabytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Largest packet a client may send (5.0: told as Maximum Packet Size; 0x95).
    pub packet_bytes_max: u32,
    /// Publishes above QoS 0 that a client may have unacknowledged (5.0: told as Receive Maximum; 0x93). Of older versions
    /// more are not read. An exchange of QoS 2 counts until its PUBCOMP.
    pub receive_maximum: u16,
    /// Messages above QoS 0 that are sent to a client before it acknowledges, if it allows more or cannot say.
    pub in_flight_max: u16,
    /// Messages that wait for an ephemeral session's client. At the bound QoS 0 drops its oldest, QoS 1 the newest.
    pub waiting_items_max: usize,
    /// Bytes of them.
    pub waiting_bytes_max: usize,
    /// Bytes written for a client that its socket has not taken; what comes then waits.
    pub output_bytes_max: usize,
    /// Subscriptions of one session (0x97).
    pub subscriptions_max: usize,
    /// SUBSCRIBEs and UNSUBSCRIBEs of one client that aren't answered. More are not read.
    pub awaited_max: usize,
    /// Topic aliases of one connection, each way (5.0: told as Topic Alias Maximum; 0x94). 0 for none.
    pub topic_aliases_max: u16,
    /// Seconds of keep-alive. A 5.0 client that asks for more, or for none, is told this as Server Keep Alive. 0: no bound.
    pub keep_alive_seconds_max: u16,
    /// Connections of one worker. More are closed at once.
    pub connections_max: usize,
    /// Milliseconds from accept to CONNECT.
    pub connect_ms: u64,
    /// Milliseconds that a client has to take the last packet and close.
    pub linger_ms: u64,
    /// Milliseconds that publishers wait for a receiver that doesn't keep up, before it drops.
    pub congestion_ms: u64,
    /// Batches of messages on their way from one worker to another. At the bound publishers are not read.
    pub peer_batches_max: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        ClientLimits {
            packet_bytes_max: 1024 * 1024,
            receive_maximum: 1024,
            in_flight_max: 1024,
            waiting_items_max: 1000,
            waiting_bytes_max: 1024 * 1024,
            output_bytes_max: 128 * 1024,
            subscriptions_max: 10_000,
            awaited_max: 16,
            topic_aliases_max: 16,
            keep_alive_seconds_max: 0,
            connections_max: 500_000,
            connect_ms: 10_000,
            linger_ms: 2_000,
            congestion_ms: 500,
            peer_batches_max: 64,
        }
    }
}

// The bounds of a shard are the same on every replica: they decide what is stored, so they are constants.

/// Messages in the queue of one persistent session. At the bound the newest is not queued, and counted; if no other queue
/// takes it either, the publish is refused: 0x97 Quota exceeded.
pub const SESSION_QUEUE_ITEMS_MAX: usize = 100_000;
/// Bytes of topics, properties and payloads in the queue of one persistent session; policy as above.
pub const SESSION_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Bytes of queued messages that a node with a data directory keeps in memory, all its shards together, if it is not told
/// otherwise (`node.queue_memory_bytes`). Beyond it the oldest are in files, and the kernel reads them in.
pub const QUEUE_MEMORY_BYTES_MAX: usize = 64 << 20;
/// Bytes in all queues of one shard. At the bound publishes are refused: 0x97 Quota exceeded.
pub const SHARD_QUEUE_BYTES_MAX: usize = 256 << 20;
/// Client ids that one shard keeps. More are refused: 0x97 Quota exceeded.
pub const SHARD_SESSIONS_MAX: usize = 1_000_000;
/// Subscriptions of one persistent session. More are refused one by one: 0x97 Quota exceeded.
pub const SESSION_SUBSCRIPTIONS_MAX: usize = 10_000;
/// Messages above the client's receive maximum that it is sent while its acknowledgements are on their way into the log.
/// At the bound the client waits for the log.
pub const SESSION_ACKS_AHEAD_MAX: u64 = 1024;
/// Exchanges of QoS 2 that one client may have open, over all its connections. More are refused: 0x97 Quota exceeded.
pub const SESSION_EXCHANGES_MAX: usize = 16_384;
/// Bytes of messages of QoS 2 that one shard has on their way to others. At the bound publishes are refused: 0x97 Quota
/// exceeded.
pub const SHARD_OUTBOX_BYTES_MAX: usize = 64 << 20;
/// From the oldest message in flight to the newest; less than there are packet ids. At the bound the client waits.
pub const SESSION_SPAN_MAX: u64 = 65_000;
/// Refused publishes that a shard remembers of one node. Of older ones it no longer knows whether they were stored, and
/// calls them refused if it is asked again.
pub const STREAM_REFUSALS_MAX: usize = 1024;
/// Connections of one shard that lost their client id and have not let go of it yet. At the bound a CONNECT that would
/// take another one over is refused: 0x97 Quota exceeded.
pub const SHARD_EVICTIONS_MAX: usize = 65_536;
/// Bytes of commands of one node to one shard that are not answered. At the bound publishes are refused: 0x97 Quota
/// exceeded.
pub const STREAM_BYTES_MAX: usize = 64 << 20;

/// Messages that one shard has lent to one member of a shared subscription; fewer than may wait for a client by default. At
/// the bound the next goes to a persistent member.
pub const MEMBER_LOANS_ITEMS_MAX: usize = 512;
/// Bytes of topics, properties and payloads of them, the last one not counted; policy as above.
pub const MEMBER_LOANS_BYTES_MAX: usize = 512 << 10;
/// Of those, how many there may be for more to be lent that waited, or was left, elsewhere: all shards together may not lend a
/// member more than may wait for its client. At the bound it waits on.
pub const MEMBER_HAND_OVERS_ITEMS_MAX: usize = 64;
/// Bytes of them; policy as above.
pub const MEMBER_HAND_OVERS_BYTES_MAX: usize = 64 << 10;
/// Bytes of all that one shard has lent, the last one not counted; policy as above.
pub const SHARD_LOANS_BYTES_MAX: usize = 64 << 20;
/// Sessions with shared subscriptions that are looked at before others have their turn.
pub const SHARING_SESSIONS_PER_LOOK_MAX: usize = 4096;
/// Messages of shared subscriptions that are handed to other members at once.
pub const HAND_OVERS_MAX: usize = 256;

/// Passwords that wait to be checked. At the bound CONNECT is refused: 0x89 Server busy.
pub const CHECK_QUEUE_MAX: usize = 256;
/// Of those, how many may be of one address (of IPv6: one /64 network).
pub const CHECK_PENDING_PER_ADDRESS_MAX: u32 = 64;
/// Wrong passwords of one address, [`CHECK_FAILURES_WITHIN`]; then it is refused unchecked: 0x89 Server busy.
pub const CHECK_FAILURES_MAX: u32 = 20;
/// See [`CHECK_FAILURES_MAX`].
pub const CHECK_FAILURES_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);
/// Addresses of which wrong passwords are counted. At the bound a new one is refused: 0x89 Server busy.
pub const CHECK_ADDRESSES_MAX: usize = 65_536;
/// How long a right password is known without checking it again.
pub const CHECKED_REMEMBERED: std::time::Duration = std::time::Duration::from_secs(600);
/// How many are known. At the bound the oldest is forgotten.
pub const CHECKED_REMEMBERED_MAX: usize = 65_536;
/// Threads that check passwords; each takes about 20 MiB while it does.
pub const CHECK_THREADS_MAX: usize = 4;

/// Bytes of the body of an admin request. The largest that is read is a configuration file; a larger one is refused (413).
pub const ADMIN_BODY_BYTES_MAX: u64 = 64 << 10;
/// Connections of administrators. More wait in the system's queue.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;
/// The longest that one admin connection may take, from accept to the last byte of the answer.
pub const ADMIN_EXCHANGE: std::time::Duration = std::time::Duration::from_secs(10);
/// The longest that an admin request waits for the cluster; shorter than [`ADMIN_EXCHANGE`], so that it is answered.
pub const ADMIN_REQUEST_WAIT: std::time::Duration = std::time::Duration::from_secs(5);
/// A node whose cluster thread has not moved for so long is not healthy.
pub const HEARTBEAT_SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(30);
/// Retained messages of one shard. At the bound a new one is refused: 0x97 Quota exceeded.
pub const SHARD_RETAINED_ITEMS_MAX: usize = 250_000;
/// Bytes of topics, properties and payloads of the retained messages of one shard; policy as above.
pub const SHARD_RETAINED_BYTES_MAX: usize = 64 << 20;
/// Clients of whose connections a shard knows the newest that published a retained message there. At the bound it forgets
/// the one that has been so for longest: only what an older connection of that client left on its way could still take
/// the place of a newer message.
pub const SHARD_FENCES_ITEMS_MAX: usize = 65_536;
/// Bytes of their client ids; policy as above.
pub const SHARD_FENCES_BYTES_MAX: usize = 8 << 20;
/// Retained messages that a subscriber is handed at once.
pub const RETAINED_PAGE_ITEMS_MAX: usize = 256;
/// Bytes of them, the last one not counted.
pub const RETAINED_PAGE_BYTES_MAX: usize = 64 << 10;
/// Topics that a shard looks at before others have their turn.
pub const RETAINED_PAGE_STEPS_MAX: usize = 1024;
/// Questions for retained messages that wait while the leader of a shard hears from a majority. At the bound one is passed
/// over; its node asks again at intervals.
pub const RETAINED_QUESTIONS_MAX: usize = 65_536;
/// Ticks until retained messages are read again for a session whose queue had no room for them.
pub const RETAINED_RETRY_TICKS: u32 = 5;
/// Topics whose retained message changed while a session was being sent those of before. At the bound the first is
/// forgotten: its older message may follow the newer.
pub const RETAINED_SEEN_MAX: usize = 10_000;

/// Clients a second that each worker asks to go when the node drains.
pub const DRAIN_RATE: u32 = 500;
/// How long clients that knock while a node starts may wait for it before they are refused.
pub const START_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
/// The longest that a drain may take.
pub const DRAIN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
