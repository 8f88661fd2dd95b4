//! What the leader of a shard does: gathers commands into entries, keeps a few on their way, and knows who was sent what.
//!
//! Deliberately absent: the group itself and the network. `shards` proposes and sends what this asks for.

use std::collections::BTreeMap;

use crate::cluster::delivery::Deliveries;
use crate::cluster::relays::Relays;
use crate::cluster::retained_rounds::Owed;
use crate::cluster::shard_client::command_bytes;
use crate::identity::{ClientId, Origin};
use crate::shard::{Command, Destination, Entry, Expected, Numbered, Shard};

/// An entry holds commands of about this many bytes.
pub(super) const ENTRY_BYTES: usize = 16 << 10;
/// Entries proposed and not yet applied.
const OUTSTANDING_MAX: usize = 4;

/// The leadership of one shard in one term.
#[derive(Debug)]
pub(super) struct ShardLeader {
    pub term: u64,
    pub deliveries: Deliveries,
    pub relays: Relays,
    pub handing: Handing,
    /// Who asks when what stood in these outboxes, up to these numbers, is kept.
    pub outboxes_asked: Owed<Vec<(Destination, u64)>>,
    /// The last number taken of each origin; ahead of what is applied.
    taken: BTreeMap<Origin, u64>,
    gathered: Vec<Numbered>,
    gathered_bytes: usize,
    outstanding: usize,
}

/// How the leader stands with handing messages of shared subscriptions over.
#[derive(Debug, Default)]
pub(super) struct Handing {
    /// Some are being handed over.
    pub busy: bool,
    /// Where to go on looking.
    pub after: Option<ClientId>,
}

/// What became of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Taken, or under way already.
    All,
    /// Some before this number are missing.
    Expects(u64),
    /// The origin is over.
    Refused,
}

impl ShardLeader {
    pub(super) fn new(term: u64) -> ShardLeader {
        ShardLeader {
            term,
            deliveries: Deliveries::default(),
            relays: Relays::default(),
            handing: Handing::default(),
            outboxes_asked: Owed::default(),
            taken: BTreeMap::new(),
            gathered: Vec::new(),
            gathered_bytes: 0,
            outstanding: 0,
        }
    }

    /// Takes commands of an origin, in order. One that was applied before goes into the log again, to be answered.
    pub(super) fn take(&mut self, shard: &Shard, origin: Origin, commands: Vec<(u64, Command)>) -> Taken {
        let Expected::Next(applied_next) = shard.expected(origin) else { return Taken::Refused };
        for (seq, command) in commands {
            let taken = self.taken.get(&origin).copied().unwrap_or(0).max(applied_next - 1);
            if seq > taken + 1 {
                return Taken::Expects(taken + 1);
            }
            if seq == taken + 1 {
                self.taken.insert(origin, seq);
                if let Command::Acknowledge { client_id, epoch, acks } = &command {
                    self.deliveries.acknowledge(client_id, *epoch, acks);
                }
            } else if seq >= applied_next {
                continue;
            }
            self.gathered_bytes += command_bytes(&command);
            self.gathered.push(Numbered { origin, seq, command });
        }
        Taken::All
    }

    /// The next entry to propose, if it is time: at once while none is under way, else when it is full.
    pub(super) fn next_entry(&mut self, now_ms: u64) -> Option<Entry> {
        let full = self.gathered_bytes >= ENTRY_BYTES;
        if self.gathered.is_empty() || self.outstanding >= OUTSTANDING_MAX || (self.outstanding > 0 && !full) {
            return None;
        }
        let mut bytes = 0;
        let fits = self.gathered.iter().take_while(|numbered| {
            let before = bytes;
            bytes += command_bytes(&numbered.command);
            before < ENTRY_BYTES
        });
        let count = fits.count();
        let commands: Vec<Numbered> = self.gathered.drain(..count).collect();
        self.gathered_bytes -= commands.iter().map(|numbered| command_bytes(&numbered.command)).sum::<usize>();
        self.outstanding += 1;
        Some(Entry { now_ms, commands })
    }

    /// An entry was applied.
    pub(super) fn proposed(&mut self) {
        self.outstanding -= 1;
    }

    /// An entry was lost: whatever was taken and is not applied will be sent again.
    pub(super) fn lost(&mut self) {
        self.outstanding -= 1;
        self.taken.clear();
        self.gathered.clear();
        self.gathered_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Incarnation, NodeId};
    use crate::message::Message;

    const ORIGIN: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };

    fn ticks(seqs: impl IntoIterator<Item = u64>) -> Vec<(u64, Command)> {
        seqs.into_iter().map(|seq| (seq, Command::Tick)).collect()
    }

    #[test]
    fn commands_are_taken_once_in_order_and_gaps_are_named() {
        let (mut leader, mut shard) = (ShardLeader::new(1), Shard::default());
        assert_eq!(leader.take(&shard, ORIGIN, ticks([2])), Taken::Expects(1));
        assert_eq!(leader.take(&shard, ORIGIN, ticks([1, 2])), Taken::All);
        assert_eq!(leader.take(&shard, ORIGIN, ticks([1, 2, 3])), Taken::All);
        let entry = leader.next_entry(5).unwrap();
        assert_eq!(entry.commands.iter().map(|numbered| numbered.seq).collect::<Vec<_>>(), [1, 2, 3]);
        shard.apply_entry(entry, &mut Vec::new());
        leader.proposed();
        assert_eq!(leader.take(&shard, ORIGIN, ticks([3])), Taken::All);
        assert!(leader.next_entry(6).is_some(), "what was applied is answered through the log");
        shard.apply_entry(
            Entry {
                now_ms: 7,
                commands: vec![Numbered { origin: ORIGIN, seq: 4, command: Command::NodeGone(ORIGIN) }],
            },
            &mut Vec::new(),
        );
        assert_eq!(leader.take(&shard, ORIGIN, ticks([5])), Taken::Refused);
    }

    #[test]
    fn entries_grow_while_one_is_under_way_and_few_are_outstanding() {
        let (mut leader, shard) = (ShardLeader::new(1), Shard::default());
        let publish = Command::Publish(Message { payload: vec![0; 1000].into(), ..Message::default() });
        leader.take(&shard, ORIGIN, vec![(1, publish.clone())]);
        assert_eq!(leader.next_entry(0).unwrap().commands.len(), 1);
        leader.take(&shard, ORIGIN, vec![(2, publish.clone())]);
        assert!(leader.next_entry(0).is_none(), "gathers while the first is written");
        leader.take(&shard, ORIGIN, (3..200).map(|seq| (seq, publish.clone())).collect());
        let sizes: Vec<usize> = std::iter::from_fn(|| leader.next_entry(0)).map(|entry| entry.commands.len()).collect();
        assert_eq!(sizes, [16, 16, 16]);
    }

    #[test]
    fn after_a_loss_the_stream_goes_on_from_what_is_applied() {
        let (mut leader, shard) = (ShardLeader::new(1), Shard::default());
        leader.take(&shard, ORIGIN, ticks([1, 2]));
        leader.next_entry(0).unwrap();
        leader.lost();
        assert_eq!(leader.take(&shard, ORIGIN, ticks([3])), Taken::Expects(1));
        assert_eq!(leader.take(&shard, ORIGIN, ticks([1, 2, 3])), Taken::All);
    }
}
