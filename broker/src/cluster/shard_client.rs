//! This node's stream of commands to one shard: numbered, answered, and sent again to whoever leads.
//!
//! Deliberately absent: time and the network. `shards` says when to send and where.

use std::collections::{BTreeMap, VecDeque};

use super::retained_rounds::Scope;
use crate::identity::{ConnectionId, NodeId, ShardId};
use crate::limits;
use crate::message::Message;
use crate::shard::{Command, Destination, Outcome, Refusal, Spread};

/// Bytes of commands in one frame, about.
const FRAME_BYTES: usize = 64 << 10;

/// Who waits for the answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Waiter {
    /// Nobody.
    Nobody,
    /// The connection that wants to hold a client id.
    Open(ConnectionId),
    /// A connection that wanted to, and was refused meanwhile.
    Withdrawn,
    /// A SUBSCRIBE or UNSUBSCRIBE.
    Subscribe { connection: ConnectionId, token: u32 },
    /// A publish, by its key.
    Publish(u64),
    /// A PUBLISH of QoS 2 in a persistent session.
    PublishOnce { connection: ConnectionId, token: u64 },
    /// A PUBREL of a persistent session.
    EndExchange { connection: ConnectionId, packet_id: u16 },
    /// Acknowledgements with PUBRECs among them.
    Acknowledge(ConnectionId),
    /// The outbox of a shard that this node leads, or led.
    Relay { from: ShardId, to: Destination, number: u64 },
    /// The leadership that hands messages of shared subscriptions over.
    HandOver { shard: ShardId, term: u64 },
    /// An administrator, by a key.
    Deletion(u64),
    /// Members that take these at QoS 2, once nobody else can get them.
    Begun(Vec<Message>),
    /// A connection that puts retained messages into its session's queue.
    Enqueue { connection: ConnectionId, token: u32 },
}

impl Waiter {
    /// Whether a client waits for it to be stored, and can be told that it is not.
    fn is_a_client(&self) -> bool {
        matches!(self, Waiter::Open(_) | Waiter::Subscribe { .. } | Waiter::Publish(_) | Waiter::PublishOnce { .. })
    }
}

/// What became of a command that was not answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// It is stored, or may be.
    Undecided,
    /// What it asks for is stored, and so it can be answered.
    Settled(Outcome),
    /// Nobody has it.
    Lost(Refusal),
}

#[derive(Debug)]
struct Waiting {
    command: Command,
    waiter: Waiter,
}

/// One stream.
#[derive(Debug, Default)]
pub(super) struct ShardClient {
    /// The number of the first in `queue`, less one.
    answered: u64,
    /// In order. What was answered out of order is `None`.
    queue: VecDeque<Option<Waiting>>,
    /// About what the commands in `queue` take.
    bytes: usize,
    /// How many of `queue`, from the front, were sent to the present leader.
    sent: usize,
    /// Nothing was answered since the last [`ShardClient::tick`].
    quiet: bool,
    /// The numbers in `queue` that lead to retained messages, and the shard that will keep each.
    keeping: BTreeMap<u64, ShardId>,
    /// Whom to send to.
    pub leader: Option<(NodeId, u64)>,
}

impl ShardClient {
    /// Puts a command at the end of the stream.
    pub(super) fn push(&mut self, shard: ShardId, command: Command, waiter: Waiter) {
        self.bytes += command_bytes(&command);
        if let Some(keeper) = keeper(shard, &command) {
            self.keeping.insert(self.answered + 1 + self.queue.len() as u64, keeper);
        }
        self.queue.push_back(Some(Waiting { command, waiter }));
    }

    /// The last number under way that leads to a retained message of `scope`.
    pub(super) fn last_kept(&self, scope: Scope) -> Option<u64> {
        let within = |keeper: &ShardId| scope.is_none_or(|scope| scope == *keeper);
        self.keeping.iter().rev().find(|(_, keeper)| within(keeper)).map(|(seq, _)| *seq)
    }

    /// Whether something up to this number is under way that leads to a retained message of `scope`.
    pub(super) fn keeps(&self, scope: Scope, last: u64) -> bool {
        let within = |keeper: &ShardId| scope.is_none_or(|scope| scope == *keeper);
        self.keeping.range(..=last).any(|(_, keeper)| within(keeper))
    }

    /// Whether so much is unanswered that no publish is taken.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= limits::STREAM_BYTES_MAX
    }

    /// The next commands that were not sent to the present leader; empty when all were.
    pub(super) fn take_unsent(&mut self) -> Vec<(u64, Command)> {
        let mut bytes = 0;
        let mut commands = Vec::new();
        while let Some(place) = self.queue.get(self.sent) {
            // What is answered was applied: leaving it out makes no gap.
            if let Some(waiting) = place {
                if bytes >= FRAME_BYTES {
                    break;
                }
                bytes += command_bytes(&waiting.command);
                commands.push((self.answered + 1 + self.sent as u64, waiting.command.clone()));
            }
            self.sent += 1;
        }
        commands
    }

    /// Takes an answer; `None` if it was answered before.
    pub(super) fn answer(&mut self, seq: u64) -> Option<(Command, Waiter)> {
        let place = usize::try_from(seq.checked_sub(self.answered + 1)?).ok()?;
        let Waiting { command, waiter } = self.queue.get_mut(place)?.take()?;
        self.bytes -= command_bytes(&command);
        self.keeping.remove(&seq);
        self.quiet = false;
        while let Some(None) = self.queue.front() {
            self.queue.pop_front();
            self.answered += 1;
            self.sent = self.sent.saturating_sub(1);
        }
        Some((command, waiter))
    }

    /// Nobody waits any more for the CONNECTs that are not answered; gives who did.
    pub(super) fn withdraw_opens(&mut self) -> Vec<Waiter> {
        let opens = self.queue.iter_mut().flatten().filter(|waiting| matches!(waiting.waiter, Waiter::Open(_)));
        opens.map(|waiting| std::mem::replace(&mut waiting.waiter, Waiter::Withdrawn)).collect()
    }

    /// Nobody waits any more for the publishes that are not answered; gives who did.
    pub(super) fn withdraw_publishes(&mut self) -> Vec<Waiter> {
        let publishes = self.queue.iter_mut().flatten().filter(|waiting| matches!(waiting.waiter, Waiter::Publish(_)));
        publishes.map(|waiting| std::mem::replace(&mut waiting.waiter, Waiter::Nobody)).collect()
    }

    /// Lets go who waits, by what became of each command; gives them and their answers. What is lost leaves the stream.
    pub(super) fn settle(&mut self, fate: impl Fn(u64, &Command) -> Fate) -> Vec<(Waiter, Outcome)> {
        let mut settled = Vec::new();
        for (seq, place) in (self.answered + 1..).zip(&mut self.queue) {
            let Some(waiting) = place.as_mut().filter(|waiting| waiting.waiter.is_a_client()) else { continue };
            let outcome = match fate(seq, &waiting.command) {
                Fate::Undecided => continue,
                Fate::Settled(outcome) => outcome,
                Fate::Lost(refusal) => {
                    // Its number is taken: the shard goes by that.
                    let lost = std::mem::replace(&mut waiting.command, Command::Tick);
                    self.bytes = self.bytes - command_bytes(&lost) + command_bytes(&Command::Tick);
                    self.keeping.remove(&seq);
                    Outcome::Refused(refusal)
                }
            };
            settled.push((std::mem::replace(&mut waiting.waiter, Waiter::Nobody), outcome));
        }
        settled
    }

    /// Everything unanswered is to be sent again.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Everything unanswered is to be sent again, but not at once.
    pub(super) fn rewind_at_next_tick(&mut self) {
        self.quiet = true;
    }

    /// The leader has nothing from `seq` on.
    pub(super) fn rewind_to(&mut self, seq: u64) {
        let place = usize::try_from(seq.saturating_sub(self.answered + 1)).unwrap_or(usize::MAX);
        self.sent = self.sent.min(place);
    }

    /// Learns of a leader. Commands go there from the first unanswered on.
    pub(super) fn leader_known(&mut self, leader: NodeId, term: u64) {
        if self.leader.is_none_or(|(_, known)| known < term) {
            self.leader = Some((leader, term));
            self.rewind();
        }
    }

    /// Called at intervals: a stream that waits for answers and got none since the last call is sent again; one that has
    /// nothing to wait for gives its room back.
    pub(super) fn tick(&mut self) {
        if self.queue.is_empty() {
            self.quiet = false;
            self.queue.shrink_to_fit();
        } else if std::mem::replace(&mut self.quiet, true) {
            self.rewind();
        }
    }

    /// Ends the stream, to begin anew at 1; gives what was not answered, and who waited.
    pub(super) fn reset(&mut self) -> Vec<(Command, Waiter)> {
        let unanswered = self.queue.drain(..).flatten().map(|Waiting { command, waiter }| (command, waiter)).collect();
        *self = ShardClient { leader: self.leader, ..ShardClient::default() };
        unanswered
    }

    /// Whether there is something to send, and somebody to send it to.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.queue.len() && self.leader.is_some()
    }
}

/// The shard that will keep what a command to `shard` says, if that is to be kept. What is relayed from an outbox is asked of
/// whoever leads its shard.
fn keeper(shard: ShardId, command: &Command) -> Option<ShardId> {
    let spread = match command {
        Command::Retain(_) | Command::Keep { .. } | Command::KeepAs { .. } => return Some(shard),
        Command::PublishOnce(publish) => &publish.spread,
        Command::FireWill { spread, .. } => spread,
        _ => return None,
    };
    let elsewhere = |to: &Destination| match to {
        Destination::Keeper(keeper) => Some(*keeper),
        Destination::Shard(_) | Destination::Node(_) | Destination::Borrower(_) => None,
    };
    if spread.keep { Some(shard) } else { spread.destinations.iter().find_map(elsewhere) }
}

/// About what a command takes in an entry.
pub(super) fn command_bytes(command: &Command) -> usize {
    match command {
        Command::Publish(message)
        | Command::Retain(message)
        | Command::Keep { message, .. }
        | Command::KeepAs { message, .. }
        | Command::KeepRelayed { message, .. }
        | Command::Relay { message, .. } => 64 + message_bytes(message),
        Command::PublishOnce(publish) => {
            64 + publish.client_id.len() + message_bytes(&publish.message) + spread_bytes(&publish.spread)
        }
        Command::Lend { message, heir, .. } => 96 + message_bytes(message) + heir.len(),
        Command::EndLoans { done, returned } => 32 + (done.len() + returned.len()) * 8,
        Command::Relayed(relayed) => 16 + relayed.len() * 24,
        Command::HandOver(hand_overs) => 16 + hand_overs.len() * 128,
        Command::Open(open) => {
            let will = open.will.as_ref().map_or(0, |will| will.message.payload.len() + will.message.topic.len());
            96 + open.client_id.len() + will
        }
        Command::Subscribe { client_id, subscriptions, .. } => {
            let filters: usize = subscriptions.iter().map(|subscription| 16 + subscription.filter.len()).sum();
            32 + client_id.len() + filters
        }
        Command::Unsubscribe { client_id, filters, .. } => {
            32 + client_id.len() + filters.iter().map(|filter| 2 + filter.len()).sum::<usize>()
        }
        Command::Acknowledge { client_id, acks, .. } => 32 + client_id.len() + acks.len() * 8,
        Command::Close(close) => 48 + close.client_id.len(),
        Command::Enqueue { client_id, filter, messages, .. } => {
            let messages: usize = messages.iter().map(|message| 64 + message_bytes(message)).sum();
            64 + client_id.len() + filter.len() + messages
        }
        Command::FireWill { client_id, spread, .. } => 32 + client_id.len() + spread_bytes(spread),
        Command::DeleteSession { client_id }
        | Command::Released { client_id, .. }
        | Command::Fence { client_id, .. }
        | Command::EndExchange { client_id, .. } => 32 + client_id.len(),
        Command::NodeGone(_) | Command::Tick => 32,
    }
}

fn spread_bytes(spread: &Spread) -> usize {
    spread.destinations.len() * 16 + spread.recipients.iter().map(|(_, recipient)| 16 + recipient.len()).sum::<usize>()
}

fn message_bytes(message: &Message) -> usize {
    message.topic.len() + message.payload.len() + message.properties.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0);

    #[test]
    fn what_leads_to_retained_messages_is_under_way_until_it_is_answered() {
        let mut client = ShardClient::default();
        client.push(SHARD, Command::Tick, Waiter::Nobody);
        client.push(SHARD, Command::Retain(Message::default()), Waiter::Nobody);
        let destinations = vec![Destination::Shard(ShardId(2)), Destination::Keeper(ShardId(3))];
        let spread = Spread { destinations, ..Spread::default() };
        client.push(SHARD, Command::FireWill { client_id: "c".into(), epoch: 1, spread }, Waiter::Nobody);
        let keeps = [None, Some(SHARD), Some(ShardId(3)), Some(ShardId(2))];
        assert_eq!(keeps.map(|scope| client.last_kept(scope)), [Some(3), Some(2), Some(3), None]);
        assert!(client.keeps(None, 2) && !client.keeps(None, 1) && !client.keeps(Some(ShardId(3)), 2));
        client.answer(2);
        client.push(SHARD, Command::Keep { message: Message::default(), epoch: 1 }, Waiter::Nobody);
        assert!(!client.keeps(Some(SHARD), 3), "it came later");
        assert_eq!(client.last_kept(Some(SHARD)), Some(4));
        client.reset();
        assert_eq!(client.last_kept(None), None);
    }

    fn numbers(commands: &[(u64, Command)]) -> Vec<u64> {
        commands.iter().map(|(seq, _)| *seq).collect()
    }

    #[test]
    fn what_is_unanswered_is_sent_again_in_order_to_a_new_leader() {
        let mut client = ShardClient::default();
        for key in 1..=4 {
            client.push(SHARD, Command::Tick, Waiter::Publish(key));
        }
        assert!(!client.has_unsent(), "nobody leads");
        client.leader_known(NodeId(1), 1);
        assert_eq!(numbers(&client.take_unsent()), [1, 2, 3, 4]);
        assert!(client.take_unsent().is_empty());
        assert_eq!(client.answer(1).unwrap().1, Waiter::Publish(1));
        assert_eq!(client.answer(3).unwrap().1, Waiter::Publish(3));
        assert!(client.answer(3).is_none(), "answered once");
        client.leader_known(NodeId(2), 2);
        assert_eq!(numbers(&client.take_unsent()), [2, 4]);
        client.push(SHARD, Command::Tick, Waiter::Nobody);
        assert_eq!(numbers(&client.take_unsent()), [5]);
        client.leader_known(NodeId(1), 1);
        assert_eq!(client.leader, Some((NodeId(2), 2)), "an older term is not believed");
    }

    #[test]
    fn a_gap_is_sent_from_where_the_leader_misses_it() {
        let mut client = ShardClient::default();
        client.leader_known(NodeId(1), 1);
        for _ in 0..5 {
            client.push(SHARD, Command::Tick, Waiter::Nobody);
        }
        client.take_unsent();
        client.answer(1);
        client.rewind_to(3);
        assert_eq!(numbers(&client.take_unsent()), [3, 4, 5]);
    }

    #[test]
    fn a_stream_without_answers_is_sent_again_at_the_second_tick() {
        let mut client = ShardClient::default();
        client.leader_known(NodeId(1), 1);
        client.push(SHARD, Command::Tick, Waiter::Nobody);
        client.take_unsent();
        client.tick();
        assert!(!client.has_unsent());
        client.tick();
        assert!(client.has_unsent());
    }

    #[test]
    fn a_stream_is_full_until_what_it_holds_is_answered() {
        let mut client = ShardClient::default();
        let payload = vec![0; limits::STREAM_BYTES_MAX / 2];
        let publish = Command::Publish(crate::message::Message { payload: payload.into(), ..Default::default() });
        client.push(SHARD, publish.clone(), Waiter::Nobody);
        assert!(!client.is_full());
        client.push(SHARD, publish, Waiter::Nobody);
        assert!(client.is_full());
        client.answer(2);
        assert!(!client.is_full());
    }

    #[test]
    fn what_is_lost_leaves_the_stream_and_its_number_stays() {
        let mut client = ShardClient::default();
        client.leader_known(NodeId(1), 1);
        let publish = |bytes| Command::Publish(Message { payload: vec![0; bytes].into(), ..Message::default() });
        client.push(SHARD, publish(100), Waiter::Publish(1));
        client.push(SHARD, publish(200), Waiter::Publish(2));
        client.push(SHARD, Command::Retain(Message::default()), Waiter::Publish(3));
        client.push(SHARD, publish(300), Waiter::Nobody);
        let settled = client.settle(|seq, command| match (seq, command) {
            (1, Command::Publish(_)) => Fate::Settled(Outcome::Stored(1)),
            (2, Command::Publish(_)) => Fate::Undecided,
            _ => Fate::Lost(Refusal::Quota),
        });
        let refused = Outcome::Refused(Refusal::Quota);
        assert_eq!(settled, [(Waiter::Publish(1), Outcome::Stored(1)), (Waiter::Publish(3), refused)]);
        assert_eq!(client.last_kept(None), None, "it is not under way any more");
        let commands = client.take_unsent();
        assert_eq!(numbers(&commands), [1, 2, 3, 4]);
        assert_eq!(commands[2].1, Command::Tick);
        assert_eq!(client.bytes, commands.iter().map(|(_, command)| command_bytes(command)).sum::<usize>());
        assert_eq!(client.answer(1), Some((publish(100), Waiter::Nobody)));
        assert_eq!(client.answer(2), Some((publish(200), Waiter::Publish(2))));
    }

    #[test]
    fn a_new_run_begins_at_one_and_lets_everybody_go() {
        let mut client = ShardClient::default();
        client.leader_known(NodeId(1), 1);
        client.push(SHARD, Command::Tick, Waiter::Publish(7));
        client.push(SHARD, Command::Tick, Waiter::Nobody);
        client.answer(2);
        assert_eq!(client.reset(), [(Command::Tick, Waiter::Publish(7))]);
        client.push(SHARD, Command::Tick, Waiter::Nobody);
        assert_eq!(numbers(&client.take_unsent()), [1]);
    }
}
