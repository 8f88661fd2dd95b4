//! Every bound has its name here. What is the same in every installation is a constant; what an operator may set comes
//! from the configuration, with the default named here.

/// Topics whose matches a worker remembers.
pub const TOPIC_CACHE_TOPICS_MAX: usize = 16 * 1024;
/// Longer topics are matched anew each time.
pub const TOPIC_CACHE_TOPIC_BYTES_MAX: usize = 256;
/// Topics that match more filters than this are matched anew each time.
pub const TOPIC_CACHE_FILTERS_MAX: usize = 256;
