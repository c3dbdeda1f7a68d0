//! Concurrent calls of `ServiceClient::close`.

use tinkex::ServiceClient;
use tinkex::testing::FakeServer;

use crate::util::TEST_TIMEOUT;

#[test]
fn both_of_two_concurrent_closes_return_after_all_threads_have_ended() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    for round in 0..100 {
        // `close` waits for the threads to end, but not longer than this time, which is enough even on a busy machine.
        let service = listening.client().timeouts(|timeouts| timeouts.close = TEST_TIMEOUT).build().unwrap();
        service.create_sampling_client("fake/model").unwrap();
        let close = |service: ServiceClient| {
            move || {
                // Ignore the result: the test checks only the number of threads after `close`.
                let _ = service.close(tinkex::CloseStatus::Success);
                service.dump().pools.iter().map(|it| it.threads).sum::<usize>()
            }
        };
        let closers = [service.clone(), service].map(|handle| std::thread::spawn(close(handle)));
        let n_threads = closers.map(|closer| closer.join().unwrap());
        assert_eq!(n_threads, [0, 0], "in round {round}");
    }
}
