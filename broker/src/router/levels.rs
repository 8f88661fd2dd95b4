//! Topics and filters as levels between `/`. Validity is `protocol`'s; here they are only taken apart.

/// The first level of `text`, and what follows its `/`.
pub(super) fn split_level(text: &str) -> (&str, Option<&str>) {
    match text.as_bytes().iter().position(|byte| *byte == b'/') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// The levels of `filter` before its first wildcard (none: `None`), and what follows them.
pub(super) fn literal_run(filter: &str) -> (Option<&str>, Option<&str>) {
    let mut start = 0;
    loop {
        let (level, after) = split_level(&filter[start..]);
        if level == "+" || level == "#" {
            let run = start.checked_sub(1).map(|end| &filter[..end]);
            return (run, Some(&filter[start..]));
        }
        match after {
            Some(_) => start += level.len() + 1,
            None => return (Some(filter), None),
        }
    }
}

/// Visits the levels of `text`, as bytes.
#[inline]
pub(super) fn for_each_level<'t>(text: &'t str, mut visit: impl FnMut(&'t [u8])) {
    let text = text.as_bytes();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let mut slashes = bytes_equal(eight(text, at), b'/');
        while slashes != 0 {
            let end = at + slashes.trailing_zeros() as usize / 8;
            visit(&text[start..end]);
            start = end + 1;
            slashes &= slashes - 1;
        }
        at += 8;
    }
    visit(&text[start..]);
}

/// Whether `filter` matches `topic` (section 4.7), word by word.
pub(super) fn matches(filter: &[u8], topic: &[u8]) -> bool {
    if filter == topic {
        return true;
    }
    // [MQTT-4.7.2-1]
    if topic.first() == Some(&b'$') && filter.first() != Some(&b'$') {
        return false;
    }
    let (mut wanted, mut found) = (0, 0);
    loop {
        let same = common_bytes(&filter[wanted..], &topic[found..]);
        wanted += same;
        found += same;
        // A wildcard is always a whole level.
        match (filter.get(wanted), topic.get(found)) {
            (None, None) => return true,
            (Some(b'#'), _) => return true,
            (Some(b'/'), None) => return filter[wanted + 1..] == *b"#",
            (Some(b'+'), _) => {
                wanted += 1;
                found =
                    topic[found..].iter().position(|byte| *byte == b'/').map_or(topic.len(), |length| found + length);
            }
            _ => return false,
        }
    }
}

/// How many first bytes are the same.
fn common_bytes(left: &[u8], right: &[u8]) -> usize {
    let whole = left.len().min(right.len());
    let mut at = 0;
    while at < whole {
        let different = eight(left, at) ^ eight(right, at);
        if different != 0 {
            return whole.min(at + different.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    whole
}

/// The bytes of `text` from `at` on, eight at most, the first lowest; 0 for those that are not there.
#[inline]
fn eight(text: &[u8], at: usize) -> u64 {
    let read = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    match text[at..].first_chunk::<8>() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => match text.last_chunk::<8>() {
            Some(bytes) => u64::from_le_bytes(*bytes) >> (8 * (at + 8 - text.len())),
            None => read(&text[at..]),
        },
    }
}

/// The highest bit of each byte of `word` that is `wanted`.
#[inline]
pub(super) fn bytes_equal(word: u64, wanted: u8) -> u64 {
    const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let different = word ^ u64::from_ne_bytes([wanted; 8]);
    // A byte's low bits carry into its highest unless they are all 0; no carry leaves a byte.
    !(((different & LOW_BITS) + LOW_BITS) | different | LOW_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_run_ends_before_the_first_wildcard() {
        assert_eq!(literal_run("a/b/+/c"), (Some("a/b"), Some("+/c")));
        assert_eq!(literal_run("a//#"), (Some("a/"), Some("#")));
        assert_eq!(literal_run("+/a"), (None, Some("+/a")));
        assert_eq!(literal_run("/+"), (Some(""), Some("+")));
        assert_eq!(literal_run("a/b"), (Some("a/b"), None));
        assert_eq!(literal_run(""), (Some(""), None));
    }

    #[test]
    fn levels_are_what_lies_between_slashes() {
        for text in [
            "",
            "/",
            "a",
            "a/",
            "/a",
            "a//b",
            "region/site/line/cell",
            "12345678",
            "1234567/",
            "12345678/9",
            "ä/ö/€/\u{10ffff}",
        ] {
            let expected: Vec<&[u8]> = text.split('/').map(str::as_bytes).collect();
            let mut levels = Vec::new();
            for_each_level(text, |level| levels.push(level));
            assert_eq!(levels, expected, "{text}");
        }
    }

    #[test]
    fn what_is_common_ends_at_the_first_difference() {
        let text = "0123456789abcdefghi";
        for length in 0..=text.len() {
            assert_eq!(common_bytes(text.as_bytes(), &text.as_bytes()[..length]), length);
            let other = format!("{}-{}", &text[..length], &text[length..]);
            assert_eq!(common_bytes(other.as_bytes(), text.as_bytes()), length);
        }
    }
}
