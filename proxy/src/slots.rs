//! Room for futures, used again.
//!
//! The future of a request is some kilobytes: too large for an allocator's fast path, and too large to stand in a
//! connection that is idle most of the time. So a worker keeps boxes for them: as many as were in use at a time lately.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Boxes that nobody uses at the moment; at most so many are kept.
const MAX_FREE: usize = 512;

/// The boxes of a worker, for futures of one type that has no name.
#[derive(Default)]
pub struct Slots(OnceCell<Rc<dyn Sweep>>);

/// What the boxes of every type have.
trait Sweep: Any {
    fn sweep(&self);
}

impl Slots {
    /// Those for futures of this type. Asked for a second type, it gives boxes that are not kept.
    pub fn of<F: 'static>(&self) -> Rc<SlotsOf<F>> {
        let slots = self.0.get_or_init(|| Rc::new(SlotsOf::<F>::default()));
        let slots: Rc<dyn Any> = Rc::<dyn Sweep>::clone(slots);
        slots.downcast().unwrap_or_default()
    }

    /// Frees the boxes that were not needed since this was done before.
    pub fn sweep(&self) {
        if let Some(slots) = self.0.get() {
            slots.sweep();
        }
    }
}

type Slot<F> = Pin<Box<Option<F>>>;

/// Boxes for futures of one type.
pub struct SlotsOf<F> {
    free: RefCell<Vec<Slot<F>>>,
    /// The fewest that were free at a time since the last sweep: so many are not needed.
    fewest: Cell<usize>,
}

impl<F> Default for SlotsOf<F> {
    fn default() -> Self {
        Self { free: RefCell::default(), fewest: Cell::default() }
    }
}

impl<F: 'static> Sweep for SlotsOf<F> {
    fn sweep(&self) {
        let mut free = self.free.borrow_mut();
        let needed = free.len().saturating_sub(self.fewest.get());
        free.truncate(needed);
        free.shrink_to(needed);
        self.fewest.set(needed);
    }
}

impl<F> SlotsOf<F> {
    /// The future, in a box.
    pub fn run(self: &Rc<Self>, future: F) -> Running<F> {
        let found = self.free.borrow_mut().pop();
        let slot = match found {
            Some(mut slot) => {
                self.fewest.set(self.fewest.get().min(self.free.borrow().len()));
                slot.set(Some(future));
                slot
            }
            None => Box::pin(Some(future)),
        };
        Running { slot: Some(slot), from: Rc::clone(self) }
    }
}

/// A future in a box that is given back when this is dropped.
pub struct Running<F> {
    slot: Option<Slot<F>>,
    from: Rc<SlotsOf<F>>,
}

impl<F: Future> Future for Running<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.slot.as_mut().and_then(|slot| slot.as_mut().as_pin_mut()) {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Running<F> {
    fn drop(&mut self) {
        let Some(mut slot) = self.slot.take() else { return };
        slot.set(None);
        let mut free = self.from.free.borrow_mut();
        if free.len() < MAX_FREE {
            free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, poll_fn};

    use super::*;

    struct Dropped(Rc<Cell<u32>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    async fn numbered(number: u32, waits: bool, dropped: Dropped) -> u32 {
        let _dropped = dropped;
        if waits {
            pending::<()>().await;
        }
        number
    }

    #[tokio::test(flavor = "current_thread")]
    async fn boxes_are_used_again_and_what_was_in_them_is_dropped_at_once() {
        let slots = Slots::default();
        let dropped = Rc::new(Cell::new(0));
        let run = |number, waits| slots.of().run(numbered(number, waits, Dropped(Rc::clone(&dropped))));
        assert_eq!(run(1, false).await, 1);
        let mut given_up = run(2, true);
        let is_pending = poll_fn(|cx| Poll::Ready(Pin::new(&mut given_up).poll(cx).is_pending())).await;
        assert!(is_pending);
        assert_eq!(dropped.get(), 1);
        drop(given_up);
        assert_eq!(dropped.get(), 2);
        let many: Vec<_> = (0..2 * MAX_FREE as u32).map(|number| run(number, false)).collect();
        drop(many);
        assert_eq!(dropped.get(), 2 + 2 * MAX_FREE as u32);
        assert_eq!(run(3, false).await, 3);
        // Another type finds no box of this one, and works all the same.
        assert_eq!(slots.of().run(async { 4 }).await, 4);
    }

    #[test]
    fn a_bounded_number_is_kept_and_what_is_not_needed_goes() {
        let slots = Slots::default();
        let of = slots.of();
        let use_some = |some: usize| drop((0..some).map(|_| of.run(std::future::ready(()))).collect::<Vec<_>>());
        let kept = || of.free.borrow().len();
        use_some(2 * MAX_FREE);
        assert_eq!(kept(), MAX_FREE);
        // Until the first sweep they count as needed, for they were.
        for expected in [MAX_FREE, 10, 10, 10] {
            slots.sweep();
            assert_eq!(kept(), expected);
            use_some(10);
            assert_eq!(kept(), expected);
        }
        slots.sweep();
        slots.sweep();
        assert_eq!(kept(), 0);
    }
}
