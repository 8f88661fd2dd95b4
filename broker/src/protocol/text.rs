//! The rules of text: UTF-8 strings (section 1.5.4), topic names and topic filters (section 4.7).

use super::reason::ProtocolError;
use crate::limits;

/// Well-formed UTF-8 without surrogates ([MQTT-1.5.4-1]) and without U+0000 ([MQTT-1.5.4-2]).
#[inline]
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, ProtocolError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| ProtocolError::malformed("MQTT-1.5.4-1", "a string is not well-formed UTF-8"))?;
    if bytes.contains(&0) {
        return Err(ProtocolError::malformed("MQTT-1.5.4-2", "a string contains U+0000"));
    }
    Ok(text)
}

/// Whether `topic` can be published to: not empty ([MQTT-4.7.3-1]), no wildcard ([MQTT-3.3.2-2]), and not more levels
/// than [`limits::TOPIC_LEVELS_MAX`].
#[inline]
pub fn valid_topic_name(topic: &str) -> bool {
    let mut levels = 1;
    for byte in topic.bytes() {
        match byte {
            b'+' | b'#' => return false,
            b'/' => levels += 1,
            _ => {}
        }
    }
    !topic.is_empty() && levels <= limits::TOPIC_LEVELS_MAX
}

/// A topic filter, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter<'a> {
    /// The name of the shared subscription, if it is one (section 4.8.2).
    pub share: Option<&'a str>,
    /// What topics are matched against.
    pub filter: &'a str,
}

/// Checks a topic filter: `#` stands alone and last ([MQTT-4.7.1-1]), `+` stands alone in its level ([MQTT-4.7.1-2]),
/// `$share/NAME/FILTER` has a name without `/`, `+`, `#` and a filter ([MQTT-4.8.2-1], [MQTT-4.8.2-2]).
/// `None` if it breaks a rule or has more levels than [`limits::TOPIC_LEVELS_MAX`].
pub fn parse_filter(text: &str) -> Option<Filter<'_>> {
    let (share, filter) = match text.strip_prefix("$share/") {
        None if text == "$share" => return None,
        None => (None, text),
        Some(shared) => {
            let (name, filter) = shared.split_once('/')?;
            if name.is_empty() || name.contains(['+', '#']) {
                return None;
            }
            (Some(name), filter)
        }
    };
    if filter.is_empty() {
        return None;
    }
    let mut levels = filter.split('/').enumerate().peekable();
    while let Some((index, level)) = levels.next() {
        let wildcard = level.contains(['+', '#']);
        if (wildcard && level.len() > 1)
            || (level == "#" && levels.peek().is_some())
            || index >= limits::TOPIC_LEVELS_MAX
        {
            return None;
        }
    }
    Some(Filter { share, filter })
}
