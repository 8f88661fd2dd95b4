//! What a worker counts: plain numbers, published once per tick for whoever shows them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::ReasonCode;

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// The numbers of one worker, as it counts.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $(#[doc = $doc] pub $name: u64,)*
        }

        /// The numbers of one worker, as others read them.
        #[derive(Debug, Default)]
        pub struct PublishedCounters {
            $($name: AtomicU64,)*
        }

        impl PublishedCounters {
            /// Makes `counters` readable by other threads.
            pub fn publish(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Ordering::Relaxed);)*
            }

            /// What was last published.
            pub fn read(&self) -> Counters {
                Counters {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                }
            }
        }

        impl Counters {
            /// Every number with its name and what it says.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), $doc, self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections that exist now, from accept on.
    connections,
    /// Sessions that are connected now.
    sessions,
    /// Connections accepted.
    connections_accepted,
    /// Connections closed because the worker had too many.
    connections_refused,
    /// CONNECTs refused.
    connects_refused,
    /// CONNECTs refused because nothing proved their user.
    authentications_failed,
    /// Connections ended for a malformed packet or a broken rule.
    protocol_errors,
    /// Connections ended because nothing came within one and a half keep-alives.
    keep_alive_timeouts,
    /// Bytes read.
    bytes_received,
    /// Bytes written.
    bytes_sent,
    /// PUBLISH packets read.
    messages_received,
    /// PUBLISH packets written.
    messages_sent,
    /// Dropped because a client did not keep up.
    dropped_slow_client,
    /// Dropped because a client does not take packets so large.
    dropped_too_large,
    /// Dropped because they had expired.
    dropped_expired,
    /// QoS 0 dropped because this node is cut off from the majority.
    dropped_not_serving,
    /// Dropped because their publisher may not publish to their topic.
    dropped_not_authorized,
    /// Messages of shared subscriptions dropped because their last member had gone.
    dropped_without_member,
    /// Subscriptions refused because the client may not have them.
    subscriptions_denied,
    /// Connections ended because CONNECT did not come within `connect_ms`.
    refused_connect_ms,
    /// Packets refused that were larger than `packet_bytes_max`.
    refused_packet_bytes_max,
    /// Publishes refused because a queue, what is retained, what is on its way, or the disk was full.
    refused_publish_quota,
    /// Publishes of QoS 2 refused because the client had too many exchanges open.
    refused_exchanges_max,
    /// Publishes refused beyond `receive_maximum`.
    refused_receive_maximum,
    /// CONNECTs refused because a shard had as many sessions as it may, or no room on its disk.
    refused_session_quota,
    /// Subscriptions refused beyond `subscriptions_max`, or those that a session may keep.
    refused_subscriptions_max,
    /// Publishes refused whose topic alias was beyond `topic_aliases_max`.
    refused_topic_aliases_max,
    /// Messages handed to other workers.
    forwarded_to_workers,
    /// Messages handed to other nodes and to shards.
    forwarded_to_cluster,
    /// Times a publisher was not read because a receiver did not keep up.
    publishers_slowed,
}

impl Counters {
    /// Counts why a connection is ended, if it is a limit.
    pub(super) fn ended(&mut self, reason: ReasonCode) {
        match reason {
            ReasonCode::PACKET_TOO_LARGE => self.refused_packet_bytes_max += 1,
            ReasonCode::QUOTA_EXCEEDED => self.refused_exchanges_max += 1,
            ReasonCode::RECEIVE_MAXIMUM_EXCEEDED => self.refused_receive_maximum += 1,
            ReasonCode::TOPIC_ALIAS_INVALID => self.refused_topic_aliases_max += 1,
            _ => {}
        }
    }
}
