//! Closing a service client from several threads.

use tinkex::ServiceClient;
use tinkex::testing::FakeServer;

use crate::util::PATIENCE;

#[test]
fn both_of_two_who_close_at_once_find_the_client_closed_when_their_calls_return() {
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    for round in 0..100 {
        // Time enough for the threads to end, however busy the machine is.
        let service = listening.client().timeouts(|it| it.close = PATIENCE).build().unwrap();
        service.create_sampling_client("fake/model").unwrap();
        let close = |service: ServiceClient| {
            move || {
                let _told = service.close(tinkex::CloseStatus::Success);
                service.dump().pools.iter().map(|it| it.threads).sum::<usize>()
            }
        };
        let closers = [service.clone(), service].map(|it| std::thread::spawn(close(it)));
        let left = closers.map(|it| it.join().unwrap());
        assert_eq!(left, [0, 0], "in round {round}");
    }
}
