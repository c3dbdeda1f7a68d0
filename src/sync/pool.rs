//! All threads of a session, in classes.
//!
//! A class has a name, a maximum number of threads and a stack size (see [`Class`]). Each class has its own queue, so
//! that jobs of one class never take the threads of another. The pool is the only list of the classes: closing, status
//! and dumps go through it.

use std::marker::PhantomData;
use std::ops::Index;
use std::sync::Arc;
use std::time::Instant;

use super::workers::{Class, DROP_GRACE, Workers};

/// Identifies a class of a pool. If the type has `n` values, their indices are `0..n`.
pub(crate) trait Kind: Copy {
    fn index(self) -> usize;
}

/// Owner of all classes. Dropping the pool closes them and waits up to one second for their threads.
pub(crate) struct Pool<K> {
    classes: Vec<Arc<Workers>>,
    kind: PhantomData<fn(K)>,
}

impl<K: Kind> Pool<K> {
    /// Creates a pool of these classes, in the order of their indices, without threads. The class `growth` runs the
    /// tasks that add threads to the other classes.
    pub(crate) fn new(classes: Vec<Class>, growth: K) -> Self {
        let growth_class = classes[growth.index()].clone();
        let growth_workers = Arc::new(Workers::new(growth_class, None));
        let workers = |(i, class)| {
            if i == growth.index() {
                growth_workers.clone()
            } else {
                Arc::new(Workers::new(class, Some(growth_workers.clone())))
            }
        };
        Pool { classes: classes.into_iter().enumerate().map(workers).collect(), kind: PhantomData }
    }

    /// Returns one class, for a part of the session that submits jobs only to this class.
    pub(crate) fn shared(&self, kind: K) -> Arc<Workers> {
        self.classes[kind.index()].clone()
    }

    /// Closes all classes, then waits for their threads until the deadline. Returns the number of threads that still
    /// run, except the calling one. May be called again, and from a job of the pool.
    pub(crate) fn close(&self, deadline: Instant) -> usize {
        self.classes.iter().for_each(|workers| workers.close());
        self.classes.iter().map(|workers| workers.join(deadline)).sum()
    }

    /// Name, number of threads and number of queued jobs of each class.
    pub(crate) fn status(&self) -> impl Iterator<Item = (&'static str, usize, usize)> {
        self.classes.iter().map(|workers| workers.status())
    }
}

impl<K: Kind> Index<K> for Pool<K> {
    type Output = Workers;

    fn index(&self, kind: K) -> &Workers {
        &self.classes[kind.index()]
    }
}

impl<K> Drop for Pool<K> {
    fn drop(&mut self) {
        let deadline = Instant::now() + DROP_GRACE;
        self.classes.iter().for_each(|workers| workers.close());
        for workers in &self.classes {
            workers.join(deadline);
        }
    }
}
