//! Three of something, one for each region server.

use std::ops::{Index, IndexMut};

use crucible_protocol::ClientId;

/// One for each of the three. Indexed by numbers that have been checked at the border: see [`is_client`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PerClient<T>([T; 3]);

/// Whether a number that came from outside names one of the three.
pub(super) const fn is_client(client: ClientId) -> bool {
    client.0 < 3
}

impl<T> PerClient<T> {
    pub(super) const fn new(three: [T; 3]) -> Self {
        Self(three)
    }

    pub(super) fn from_fn(make: impl FnMut(ClientId) -> T) -> Self {
        Self(ClientId::ALL.map(make))
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        self.0.iter_mut()
    }

    pub(super) fn count(&self, is: impl Fn(&T) -> bool) -> usize {
        self.0.iter().filter(|one| is(one)).count()
    }
}

impl<T> Index<ClientId> for PerClient<T> {
    type Output = T;

    fn index(&self, client: ClientId) -> &T {
        let [first, second, third] = &self.0;
        match client.0 {
            0 => first,
            1 => second,
            _ => third,
        }
    }
}

impl<T> IndexMut<ClientId> for PerClient<T> {
    fn index_mut(&mut self, client: ClientId) -> &mut T {
        let [first, second, third] = &mut self.0;
        match client.0 {
            0 => first,
            1 => second,
            _ => third,
        }
    }
}
