//! The ACL file: Mosquitto's, with one more heading, `client CLIENT_ID`.
//!
//! ```text
//! topic read news/#            # before any heading: of anonymous clients
//! user ann
//! topic readwrite home/#
//! topic deny home/safe/#
//! client gate-7
//! topic write gates/7
//! pattern readwrite devices/%u/%c/#     # of everybody, wherever it stands
//! ```
//!
//! A client has the rules of its user, of its client id, and all patterns. What a rule denies is denied whatever others
//! allow; what no rule allows is denied. A subscription must be allowed as a whole: one rule covers all that it could
//! match, and no denied filter overlaps it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::Split;

/// What is wrong with an ACL file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {what}")]
pub struct AclError {
    /// Counted from 1.
    pub line: usize,
    /// And what to write instead.
    pub what: String,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// `None`: anonymous.
    pub user: Option<&'a str>,
    /// The client id.
    pub client_id: &'a str,
}

/// The rules of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Acl {
    patterns: Vec<Rule>,
    anonymous: Vec<Rule>,
    users: BTreeMap<Box<str>, Vec<Rule>>,
    clients: BTreeMap<Box<str>, Vec<Rule>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    access: Access,
    filter: Box<str>,
    /// It has `%u` or `%c`.
    substitutes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    ReadWrite,
    Deny,
}

enum Heading {
    Anonymous,
    User(Box<str>),
    Client(Box<str>),
}

impl Acl {
    /// From a file's text.
    ///
    /// # Errors
    /// The first line that makes no sense.
    pub fn parse(text: &str) -> Result<Acl, AclError> {
        let mut acl = Acl::default();
        let mut heading = Heading::Anonymous;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refuse = |what: String| AclError { line: index + 1, what };
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let rest = rest.trim();
            match word {
                "user" | "client" if rest.is_empty() => return Err(refuse(format!("{word}: write a name after it"))),
                "user" => heading = Heading::User(rest.into()),
                "client" => heading = Heading::Client(rest.into()),
                "topic" | "pattern" => {
                    let rule = Rule::parse(rest, word == "pattern").map_err(refuse)?;
                    match &heading {
                        _ if word == "pattern" => acl.patterns.push(rule),
                        Heading::Anonymous => acl.anonymous.push(rule),
                        Heading::User(user) => acl.users.entry(user.clone()).or_default().push(rule),
                        Heading::Client(client) => acl.clients.entry(client.clone()).or_default().push(rule),
                    }
                }
                _ => return Err(refuse(format!("{word}: begin a line with user, client, topic or pattern"))),
            }
        }
        Ok(acl)
    }

    /// Whether a client may publish to a topic.
    pub fn may_publish(&self, client: Client<'_>, topic: &str) -> bool {
        let mut allowed = false;
        for rule in self.rules_of(client) {
            if rule.access == Access::Read || !rule.covers(client, topic) {
                continue;
            }
            if rule.access == Access::Deny {
                return false;
            }
            allowed = true;
        }
        allowed
    }

    /// Whether a client may subscribe to a filter, without `$share` and group.
    pub fn may_subscribe(&self, client: Client<'_>, filter: &str) -> bool {
        let mut allowed = false;
        for rule in self.rules_of(client) {
            match rule.access {
                Access::Write => {}
                Access::Deny if rule.overlaps(client, filter) => return false,
                Access::Deny => {}
                Access::Read | Access::ReadWrite => allowed = allowed || rule.covers(client, filter),
            }
        }
        allowed
    }

    fn rules_of(&self, client: Client<'_>) -> impl Iterator<Item = &Rule> {
        let of_user = match client.user {
            None => Some(&self.anonymous),
            Some(user) => self.users.get(user),
        };
        let of_client = self.clients.get(client.client_id);
        of_user.into_iter().chain(of_client).flatten().chain(&self.patterns)
    }
}

impl Rule {
    fn parse(text: &str, is_pattern: bool) -> Result<Rule, String> {
        let (access, filter) = match text.split_once(char::is_whitespace) {
            Some(("read", filter)) => (Access::Read, filter),
            Some(("write", filter)) => (Access::Write, filter),
            Some(("readwrite", filter)) => (Access::ReadWrite, filter),
            Some(("deny", filter)) => (Access::Deny, filter),
            // As in Mosquitto: whoever mistypes `deny` must not allow something by it.
            Some((word, _)) => {
                return Err(format!(
                    "{word:?} is no access: write read, write, readwrite or deny; also before a topic with spaces"
                ));
            }
            None => (Access::ReadWrite, text),
        };
        let filter = filter.trim();
        if crate::protocol::parse_filter(filter).is_none_or(|parsed| parsed.share.is_some()) {
            return Err(format!("{filter:?} is no topic filter: write `topic read|write|readwrite|deny FILTER`"));
        }
        let substitutes = is_pattern && (filter.contains("%u") || filter.contains("%c"));
        Ok(Rule { access, filter: filter.into(), substitutes })
    }

    /// The filter's levels for this client. `None` if it can't have any: an anonymous one with `%u`, and a name that
    /// would reach beyond its level.
    fn levels<'a>(&'a self, client: Client<'a>) -> Option<Levels<'a>> {
        if self.substitutes {
            let plain = |name: &str| !name.is_empty() && !name.contains(['/', '+', '#']);
            if self.filter.contains("%u") && !client.user.is_some_and(plain)
                || self.filter.contains("%c") && !plain(client.client_id)
            {
                return None;
            }
        }
        Some(Levels { levels: self.filter.split('/'), substitutes: self.substitutes, client })
    }

    /// Whether everything that `asked`, a topic or a filter, matches is matched by this rule.
    fn covers(&self, client: Client<'_>, asked: &str) -> bool {
        let Some(mut rule) = self.levels(client) else { return false };
        let mut levels = asked.split('/');
        let mut is_first = true;
        loop {
            let (own, asked) = (rule.next(), levels.next());
            // [MQTT-4.7.2-1]
            let reserved = is_first && asked.is_some_and(|level| level.starts_with('$'));
            is_first = false;
            match (own.as_deref(), asked) {
                (Some("#"), _) => return !reserved,
                (None, None) => return true,
                (None, _) | (_, None) | (_, Some("#")) => return false,
                (Some("+"), Some(_)) if !reserved => {}
                (Some(own), Some(asked)) if own == asked && own != "+" => {}
                _ => return false,
            }
        }
    }

    /// Whether some topic is matched by both.
    fn overlaps(&self, client: Client<'_>, asked: &str) -> bool {
        let Some(mut rule) = self.levels(client) else { return false };
        let mut levels = asked.split('/');
        let mut is_first = true;
        loop {
            let (own, asked) = (rule.next(), levels.next());
            let is_reserved = |level: Option<&str>| is_first && level.is_some_and(|level| level.starts_with('$'));
            match (own.as_deref(), asked) {
                (Some("#"), asked) => return !is_reserved(asked),
                (own, Some("#")) => return !is_reserved(own),
                (None, None) => return true,
                (None, _) | (_, None) => return false,
                (Some("+"), asked) if !is_reserved(asked) => {}
                (own, Some("+")) if !is_reserved(own) => {}
                (own, asked) if own == asked => {}
                _ => return false,
            }
            is_first = false;
        }
    }
}

struct Levels<'a> {
    levels: Split<'a, char>,
    substitutes: bool,
    client: Client<'a>,
}

impl<'a> Iterator for Levels<'a> {
    type Item = Cow<'a, str>;

    fn next(&mut self) -> Option<Cow<'a, str>> {
        let level = self.levels.next()?;
        if !self.substitutes || !level.contains('%') {
            return Some(Cow::Borrowed(level));
        }
        let user = self.client.user.unwrap_or_default();
        Some(match level {
            "%u" => Cow::Borrowed(user),
            "%c" => Cow::Borrowed(self.client.client_id),
            // Piece by piece, so that what one name brings is not looked at for the other.
            level => Cow::Owned(
                level
                    .split("%u")
                    .map(|piece| piece.replace("%c", self.client.client_id))
                    .collect::<Vec<_>>()
                    .join(user),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "
# a comment
topic read news/#

user ann
topic home/#
topic deny home/safe/#
topic read $SYS/#
client gate-7
topic write gates/7
pattern write devices/%u/%c/#
pattern read to-%c
";

    fn client<'a>(user: &'a str, client_id: &'a str) -> Client<'a> {
        Client { user: (!user.is_empty()).then_some(user), client_id }
    }

    #[test]
    fn each_may_what_its_rules_say_and_nothing_else() {
        let acl = Acl::parse(FILE).unwrap();
        let ann = client("ann", "x");
        for (who, topic, allowed) in [
            (ann, "home", true),
            (ann, "home/door", true),
            (ann, "home/safe", false),
            (ann, "home/safe/lock", false),
            (ann, "news/today", false),
            (ann, "devices/ann/x", true),
            (ann, "devices/ann/y", false),
            (ann, "to-x", false),
            (client("bob", "gate-7"), "gates/7", true),
            (client("bob", "gate-8"), "gates/7", false),
            (client("", "x"), "devices//x", false),
            (client("a/b", "x"), "devices/a/b/x", false),
            (client("+", "x"), "devices/+/x", false),
        ] {
            assert_eq!(acl.may_publish(who, topic), allowed, "{who:?} {topic}");
        }
        for (who, filter, allowed) in [
            (ann, "home/+", false),
            (ann, "home/door/#", true),
            (ann, "home/#", false),
            (ann, "home/+/door", false),
            (ann, "#", false),
            (ann, "$SYS/broker/uptime", true),
            (ann, "to-x", true),
            (ann, "to-+", false),
            (client("", "x"), "news/#", true),
            (client("", "x"), "news/+/x", true),
            (client("", "x"), "+/x", false),
            (client("bob", "gate-7"), "gates/7", false),
        ] {
            assert_eq!(acl.may_subscribe(who, filter), allowed, "{who:?} {filter}");
        }
    }

    #[test]
    fn wildcards_do_not_reach_reserved_topics() {
        let acl = Acl::parse("topic #\ntopic +/x").unwrap();
        let anyone = client("", "x");
        assert!(acl.may_publish(anyone, "a/x") && acl.may_subscribe(anyone, "#"));
        assert!(!acl.may_publish(anyone, "$SYS/x") && !acl.may_subscribe(anyone, "$SYS/#"));
    }

    #[test]
    fn an_empty_file_denies_everything() {
        let acl = Acl::parse("# nothing\n").unwrap();
        assert!(!acl.may_publish(client("ann", "x"), "a") && !acl.may_subscribe(client("ann", "x"), "a"));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_line() {
        for (text, line, word) in [
            ("topic a\nuser\n", 2, "user"),
            ("tpic a", 1, "tpic"),
            ("topic read a/#/b", 1, "a/#/b"),
            ("topic", 1, "filter"),
            ("topic dney secret/#", 1, "dney"),
        ] {
            let error = Acl::parse(text).unwrap_err();
            assert!(error.line == line && error.what.contains(word), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "((topic|user|client|pattern|x)? ?(read|write|deny)? ?[a-c/+#%$u]{0,8}\n?){0,12}", asked in "[a-c/+#$]{0,8}") {
            if let Ok(acl) = Acl::parse(&text) {
                let _ = acl.may_publish(client("a", "b"), &asked);
                let _ = acl.may_subscribe(client("", "c"), &asked);
            }
        }

        /// Whatever a client may subscribe to, no message that reaches it thereby is one that a rule denies.
        #[test]
        fn a_granted_filter_matches_nothing_denied(
            allow in "[ab+]/[ab+]|[ab+]/#|#", deny in "[ab+]/[ab+]|[ab+]/#|[ab]", filter in "[ab+]/[ab+]|[ab+]/#|#|[ab]", topic in "[ab]/[ab]|[ab]",
        ) {
            let acl = Acl::parse(&format!("topic {allow}\ntopic deny {deny}")).unwrap();
            let anyone = client("", "x");
            let wanted = Rule::parse(&filter, false).unwrap();
            if acl.may_subscribe(anyone, &filter) && wanted.covers(anyone, &topic) {
                prop_assert!(acl.may_publish(anyone, &topic));
            }
        }
    }
}
