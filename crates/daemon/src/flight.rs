//! Operations in flight. One that has begun goes on to its end whether or not its client waits, and a request that repeats it
//! joins it and gets its result (invariant 2 of the design).

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// What is in flight, by what it is about.
#[derive(Debug)]
pub(crate) struct Flights<K, T> {
    airborne: Arc<Mutex<HashMap<K, Flight<T>>>>,
}

#[derive(Debug)]
struct Flight<T> {
    landed: watch::Receiver<Option<T>>,
    course: Arc<Course>,
}

/// How far an operation is.
#[derive(Debug)]
struct Course {
    since: Instant,
    stage: Mutex<(&'static str, Instant)>,
}

/// An operation that is under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Airborne {
    pub(crate) age: Duration,
    pub(crate) stage: &'static str,
    pub(crate) stage_age: Duration,
}

tokio::task_local! {
    /// Of the operation that this task is.
    static COURSE: Arc<Course>;
}

/// Says what the operation of this task is at from now on. Elsewhere nobody looks.
pub(crate) fn stage(name: &'static str) {
    let _nobody = COURSE.try_with(|course| {
        let mut stage = course.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *stage = (name, Instant::now());
    });
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            airborne: Arc::default(),
        }
    }
}

/// The operation ended without a result, which only a defect (a panic) can do.
#[derive(Debug, thiserror::Error)]
#[error("the operation ended without a result; the daemon's log has the reason")]
pub(crate) struct Crashed;

impl<K, T> Flights<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the flight of this key, or starts one. Cancellation: dropping this future leaves the flight alone.
    pub(crate) async fn join<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<T, Crashed>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut landed = {
            let mut airborne = self.airborne.lock().unwrap_or_else(PoisonError::into_inner);
            match airborne.get(&key) {
                Some(flight) => flight.landed.clone(),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    let since = Instant::now();
                    let course = Arc::new(Course {
                        since,
                        stage: Mutex::new(("begin", since)),
                    });
                    let flight = Flight {
                        landed: receiver.clone(),
                        course: Arc::clone(&course),
                    };
                    airborne.insert(key.clone(), flight);
                    let entry = Entry {
                        airborne: Arc::clone(&self.airborne),
                        key,
                    };
                    let operation = start();
                    tokio::spawn(async move {
                        let result = COURSE.scope(course, operation).await;
                        // Off the list before anyone can see the result and ask again.
                        drop(entry);
                        sender.send_replace(Some(result));
                    });
                    receiver
                }
            }
        };
        match landed.wait_for(Option::is_some).await {
            Ok(result) => result.clone().ok_or(Crashed),
            Err(_sender_dropped) => Err(Crashed),
        }
    }

    /// What is under way.
    pub(crate) fn airborne(&self) -> Vec<(K, Airborne)> {
        let airborne = self.airborne.lock().unwrap_or_else(PoisonError::into_inner);
        let flights = airborne.iter().map(|(key, flight)| {
            let course = &flight.course;
            let (stage, since) = *course.stage.lock().unwrap_or_else(PoisonError::into_inner);
            let airborne = Airborne {
                age: course.since.elapsed(),
                stage,
                stage_age: since.elapsed(),
            };
            (key.clone(), airborne)
        });
        flights.collect()
    }
}

/// Takes the flight off the list however it ends.
struct Entry<K: Eq + Hash, T> {
    airborne: Arc<Mutex<HashMap<K, Flight<T>>>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Entry<K, T> {
    fn drop(&mut self) {
        self.airborne
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_repeated_request_joins_and_a_dropped_client_abandons_nothing() {
        let flights = Arc::new(Flights::default());
        let (starts, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let request = || {
            let (flights, starts, gate) = (flights.clone(), starts.clone(), gate.clone());
            async move {
                flights
                    .join("key", || {
                        starts.fetch_add(1, Ordering::SeqCst);
                        async move {
                            gate.notified().await;
                            7
                        }
                    })
                    .await
            }
        };
        let first = tokio::spawn(request());
        while starts.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        first.abort();
        let second = tokio::spawn(request());
        tokio::task::yield_now().await;
        gate.notify_one();
        assert_eq!(second.await.unwrap().unwrap(), 7);
        assert_eq!(starts.load(Ordering::SeqCst), 1);
        assert!(flights.airborne.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_flight_says_what_it_is_at() {
        let flights: Arc<Flights<&str, ()>> = Arc::default();
        let gate = Arc::new(Notify::new());
        let joined = {
            let (flights, gate) = (flights.clone(), gate.clone());
            tokio::spawn(async move {
                let operation = || async move {
                    stage("first");
                    gate.notified().await;
                    stage("second");
                    gate.notified().await;
                };
                flights.join("key", operation).await
            })
        };
        for name in ["first", "second"] {
            while flights
                .airborne()
                .first()
                .is_none_or(|(_, one)| one.stage != name)
            {
                tokio::task::yield_now().await;
            }
            let (key, airborne) = flights.airborne()[0];
            assert_eq!(key, "key");
            assert!(airborne.stage_age <= airborne.age);
            gate.notify_one();
        }
        joined.await.unwrap().unwrap();
        assert!(flights.airborne().is_empty());
        stage("nobody looks");
    }

    #[tokio::test]
    async fn a_crashed_flight_is_an_error_and_leaves_the_list() {
        let flights: Flights<&str, i32> = Flights::default();
        let result = flights.join("key", || async { panic!("on purpose") }).await;
        assert!(result.is_err());
        assert!(flights.airborne.lock().unwrap().is_empty());
    }
}
