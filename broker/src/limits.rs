//! Every bound has its name here. What is the same in every installation is a constant; what an operator may set comes
//! from the configuration, with the default named here.

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

/// Milliseconds of one tick of a worker's timer: how exactly keep-alive and time-outs are kept.
pub const TICK_MS: u64 = 100;
/// Ticks of one turn of a worker's timer wheel.
pub const WHEEL_TICKS: u32 = 1024;
