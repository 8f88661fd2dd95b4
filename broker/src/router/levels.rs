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

/// How many bytes of `label` and `text` agree in whole levels.
pub(super) fn common_levels(label: &str, text: &str) -> usize {
    let (label, text) = (label.as_bytes(), text.as_bytes());
    let agree = label.iter().zip(text).take_while(|(left, right)| left == right).count();
    let ends = |bytes: &[u8], at: usize| at == bytes.len() || bytes[at] == b'/';
    (1..=agree).rev().find(|at| ends(label, *at) && ends(text, *at)).unwrap_or(0)
}

/// What follows `label` in `topic`: `None` if `topic` does not begin with its levels, `Some(None)` if it ends there.
pub(super) fn after_label<'t>(topic: &'t str, label: &str) -> Option<Option<&'t str>> {
    let rest = topic.strip_prefix(label)?;
    match rest.as_bytes().first() {
        None => Some(None),
        Some(b'/') => Some(Some(&rest[1..])),
        Some(_) => None,
    }
}

/// Whether the first level of `label` is `level`.
pub(super) fn begins_with_level(label: &str, level: &str) -> bool {
    label.as_bytes().starts_with(level.as_bytes()) && matches!(label.as_bytes().get(level.len()), None | Some(b'/'))
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
    fn levels_agree_only_whole() {
        assert_eq!(common_levels("a/bc", "a/bd"), 1);
        assert_eq!(common_levels("a/b", "a/b/c"), 3);
        assert_eq!(common_levels("a/b/", "a/b/c"), 3);
        assert_eq!(common_levels("/x", "/y"), 0);
        assert_eq!(after_label("a/b/c", "a/b"), Some(Some("c")));
        assert_eq!(after_label("a/bc", "a/b"), None);
        assert_eq!(after_label("a/b/", "a/b"), Some(Some("")));
        assert!(begins_with_level("a/b", "a"));
        assert!(begins_with_level("/b", ""));
        assert!(!begins_with_level("ab", "a"));
    }
}
