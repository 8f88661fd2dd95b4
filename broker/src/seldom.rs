//! Parts of something of which there are many, where most have nothing.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// What having nothing looks like.
pub trait Nothing: Sized + 'static {
    /// Looked at wherever there is nothing.
    const NOTHING: &'static Self;

    /// To be changed.
    fn nothing() -> Self;
}

/// A `T` that takes one word until it is first changed. Looking at it takes nothing.
#[derive(Clone)]
pub struct Seldom<T>(Option<Box<T>>);

impl<T> Seldom<T> {
    /// Nothing.
    pub const NONE: Seldom<T> = Seldom(None);

    /// What is there, to be changed; `None` if nothing is, and then nothing comes there.
    pub fn if_any(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
}

impl<T: Nothing> Seldom<T> {
    /// Takes it out and leaves nothing.
    pub fn take(&mut self) -> T {
        self.0.take().map_or_else(T::nothing, |value| *value)
    }
}

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Seldom::NONE
    }
}

impl<T: Nothing + PartialEq> From<T> for Seldom<T> {
    fn from(value: T) -> Self {
        Seldom((value != *T::NOTHING).then(|| Box::new(value)))
    }
}

impl<T: Nothing> Deref for Seldom<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::NOTHING)
    }
}

impl<T: Nothing> DerefMut for Seldom<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(T::nothing()))
    }
}

/// What was changed back to nothing is nothing.
impl<T: Nothing + PartialEq> PartialEq for Seldom<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Nothing + fmt::Debug> fmt::Debug for Seldom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: 'static> Nothing for Vec<T> {
    const NOTHING: &'static Self = &Vec::new();

    fn nothing() -> Self {
        Vec::new()
    }
}

impl<T: 'static> Nothing for VecDeque<T> {
    const NOTHING: &'static Self = &VecDeque::new();

    fn nothing() -> Self {
        VecDeque::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_a_word_until_it_is_changed() {
        let mut seldom = Seldom::<Vec<u32>>::default();
        assert_eq!(size_of_val(&seldom), size_of::<usize>());
        assert!(seldom.is_empty() && seldom.if_any().is_none());
        assert_eq!(seldom, Seldom::from(Vec::new()));
        seldom.push(1);
        assert_eq!((seldom.len(), seldom.if_any().map(|numbers| numbers.pop())), (1, Some(Some(1))));
        assert_eq!(seldom, Seldom::default(), "changed back");
        seldom.extend([2, 3]);
        assert_eq!((seldom.take(), seldom.take()), (vec![2, 3], vec![]));
        assert!(Seldom::from(Vec::<u32>::new()).if_any().is_none(), "nothing needs no place");
    }
}
