//! Bytes that are kept for long: the encoded messages of queues. They are in memory, or in a file that the kernel reads in
//! when they are looked at; whoever holds them cannot tell, and needs not.
//!
//! A [`Shelf`] counts what is in memory and knows what came first; `storage` moves that into files. Deliberately absent:
//! files, and what the bytes mean.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;

/// Bytes on a [`Shelf`]. They never change, only where they are.
pub struct Kept {
    bytes: RefCell<Bytes>,
    in_memory: Cell<bool>,
    /// See [`Places`].
    place: Cell<u32>,
    shelf: Shelf,
}

impl Kept {
    /// The bytes: a cheap clone. Reading them may wait for a disk.
    pub fn bytes(&self) -> Bytes {
        self.bytes.borrow().clone()
    }

    /// The bytes, if they are in a file.
    pub fn stored_bytes(&self) -> Option<Bytes> {
        (!self.in_memory.get()).then(|| self.bytes())
    }

    /// How many they are. Never waits.
    pub fn len(&self) -> usize {
        self.bytes.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same bytes in a file: those in memory are given up.
    pub fn move_to(&self, bytes: Bytes) {
        debug_assert_eq!(*self.bytes.borrow(), bytes, "bytes that are kept never change");
        if self.in_memory.replace(false) {
            self.shelf.leave_memory(bytes.len());
        }
        self.bytes.replace(bytes);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.in_memory.get() {
            self.shelf.leave_memory(self.bytes.get_mut().len());
        }
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Kept) -> bool {
        *self.bytes.borrow() == *other.bytes.borrow()
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// The bytes that all shards of a node keep. Cloning gives another handle.
#[derive(Clone, Default)]
pub struct Shelf {
    account: Rc<Account>,
}

#[derive(Default)]
struct Account {
    /// `None`: nothing is moved out of memory.
    bytes_max: Option<usize>,
    bytes: Cell<usize>,
    count: Cell<usize>,
    /// Whatever is in memory, in the order in which it came, and some that is gone.
    oldest: RefCell<VecDeque<Weak<Kept>>>,
    /// There is more in memory than should be.
    over: Notify,
    scratch: RefCell<Vec<u8>>,
}

/// Dead entries of [`Account::oldest`] beyond as many as there are live ones, at which they are swept out.
const DEAD_MAX: usize = 1024;

impl Shelf {
    /// A shelf that asks for room ([`Shelf::over`]) when more than `bytes_max` are in memory.
    pub fn bounded(bytes_max: usize) -> Shelf {
        Shelf { account: Rc::new(Account { bytes_max: Some(bytes_max), ..Account::default() }) }
    }

    /// Keeps a value's encoding.
    pub fn keep(&self, value: &impl Serialize) -> Rc<Kept> {
        let mut scratch = self.account.scratch.take();
        scratch.clear();
        // Serialising plain data to memory has no way to fail.
        let scratch = postcard::to_extend(value, scratch).unwrap_or_default();
        let bytes = Bytes::copy_from_slice(&scratch);
        if scratch.capacity() <= SCRATCH_BYTES_MAX {
            self.account.scratch.replace(scratch);
        }
        self.put(bytes, true)
    }

    /// Keeps bytes that are in a file already.
    pub fn keep_stored(&self, bytes: Bytes) -> Rc<Kept> {
        self.put(bytes, false)
    }

    fn put(&self, bytes: Bytes, in_memory: bool) -> Rc<Kept> {
        let length = bytes.len();
        let kept = Rc::new(Kept {
            bytes: RefCell::new(bytes),
            in_memory: Cell::new(in_memory),
            place: Cell::new(0),
            shelf: self.clone(),
        });
        if in_memory {
            let account = &self.account;
            account.bytes.set(account.bytes.get() + length);
            account.count.set(account.count.get() + 1);
            if let Some(bytes_max) = account.bytes_max {
                let mut oldest = account.oldest.borrow_mut();
                oldest.push_back(Rc::downgrade(&kept));
                if oldest.len() > 2 * account.count.get() + DEAD_MAX {
                    oldest.retain(|kept| kept.strong_count() > 0);
                }
                if account.bytes.get() > bytes_max {
                    account.over.notify_one();
                }
            }
        }
        kept
    }

    fn leave_memory(&self, length: usize) {
        self.account.bytes.set(self.account.bytes.get() - length);
        self.account.count.set(self.account.count.get() - 1);
    }

    /// Bytes in memory.
    pub fn in_memory_bytes(&self) -> usize {
        self.account.bytes.get()
    }

    fn is_over(&self) -> bool {
        self.account.bytes_max.is_some_and(|bytes_max| self.account.bytes.get() > bytes_max)
    }

    /// Waits until more is in memory than should be. For one caller.
    pub async fn over(&self) {
        while !self.is_over() {
            self.account.over.notified().await;
        }
    }

    /// Takes what has been in memory for longest: as much as is over the bound, in pieces of at most `bytes_max` (a
    /// larger one comes alone). Whoever takes it moves it, or [puts it back](Shelf::put_back).
    pub fn take_oldest(&self, bytes_max: usize) -> Vec<Rc<Kept>> {
        let over = self.account.bytes.get().saturating_sub(self.account.bytes_max.unwrap_or(usize::MAX));
        let mut oldest = self.account.oldest.borrow_mut();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < over.min(bytes_max)
            && let Some(next) = oldest.pop_front()
        {
            let Some(kept) = next.upgrade().filter(|kept| kept.in_memory.get()) else { continue };
            bytes += kept.len();
            if bytes > bytes_max && !taken.is_empty() {
                oldest.push_front(next);
                break;
            }
            taken.push(kept);
        }
        taken
    }

    /// It could not be moved.
    pub fn put_back(&self, taken: &[Rc<Kept>]) {
        let mut oldest = self.account.oldest.borrow_mut();
        for kept in taken.iter().rev() {
            oldest.push_front(Rc::downgrade(kept));
        }
    }
}

/// A buffer for encoding that is larger is freed.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

/// Gives each of what is kept a number, from 0 in the order in which they are asked about.
#[derive(Default)]
pub struct Places {
    /// In the order of their numbers.
    pub all: Vec<Rc<Kept>>,
}

impl Places {
    /// The number of `kept`, and whether it is new.
    pub fn place(&mut self, kept: &Rc<Kept>) -> (usize, bool) {
        // What it remembers may be of another count, so it is looked up.
        let remembered = kept.place.get() as usize;
        if self.all.get(remembered).is_some_and(|known| Rc::ptr_eq(known, kept)) {
            return (remembered, false);
        }
        let place = self.all.len();
        kept.place.set(place as u32);
        self.all.push(kept.clone());
        (place, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf_of(bytes_max: usize, count: usize) -> (Shelf, Vec<Rc<Kept>>) {
        let shelf = Shelf::bounded(bytes_max);
        let kept = (0..count).map(|number| shelf.keep(&[number as u8; 10])).collect();
        (shelf, kept)
    }

    #[test]
    fn what_has_been_in_memory_for_longest_is_taken_until_the_bound_is_kept() {
        let (shelf, kept) = shelf_of(50, 10);
        assert_eq!(shelf.in_memory_bytes(), 100);
        let taken = shelf.take_oldest(usize::MAX);
        assert_eq!(taken.len(), 5);
        for (taken, kept) in taken.iter().zip(&kept) {
            assert!(Rc::ptr_eq(taken, kept));
            taken.move_to(Bytes::from(taken.bytes().to_vec()));
        }
        assert_eq!(shelf.in_memory_bytes(), 50);
        assert!(shelf.take_oldest(usize::MAX).is_empty());
        drop(taken);
        drop(kept);
        assert_eq!(shelf.in_memory_bytes(), 0);
    }

    #[test]
    fn what_could_not_be_moved_is_taken_again_in_the_same_order() {
        let (shelf, kept) = shelf_of(0, 4);
        let taken = shelf.take_oldest(20);
        assert_eq!(taken.len(), 2);
        shelf.put_back(&taken);
        let again = shelf.take_oldest(usize::MAX);
        assert_eq!(again.len(), 4);
        assert!(again.iter().zip(&kept).all(|(again, kept)| Rc::ptr_eq(again, kept)));
    }

    #[test]
    fn the_dead_are_forgotten() {
        let shelf = Shelf::bounded(usize::MAX);
        let lasting = shelf.keep(&1);
        for number in 0..100_000_u32 {
            shelf.keep(&number);
        }
        assert!(shelf.account.oldest.borrow().len() <= DEAD_MAX + 4);
        drop(lasting);
        assert_eq!((shelf.in_memory_bytes(), shelf.account.count.get()), (0, 0));
    }

    #[test]
    fn places_are_given_once_in_each_count() {
        let (_shelf, kept) = shelf_of(0, 3);
        let mut places = Places::default();
        assert_eq!([&kept[2], &kept[0], &kept[2]].map(|kept| places.place(kept)), [(0, true), (1, true), (0, false)]);
        let mut others = Places::default();
        assert_eq!([&kept[0], &kept[2]].map(|kept| others.place(kept)), [(0, true), (1, true)]);
    }
}
