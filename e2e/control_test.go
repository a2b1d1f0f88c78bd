package e2e

import (
	"slices"
	"testing"
)

// TestControl pulls with each client straight from the stand-in. A client that fails here fails for reasons that are not hubcap's; and as
// the stand-in's log shows the client's own name here, it would show it in the other tests too if a client went around the box.
func TestControl(t *testing.T) {
	t.Parallel()
	for _, c := range slices.Concat(clients, otherClients) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			need(t, c.programs...)
			i := multiArchOf("some/demo")
			if c.cannot["multi-arch"] == ignores {
				i = chartOf("some/demo")
			}
			s := newSite(t, i)
			mustPull(t, c.start(t, s, ""), i)
			if seen := agents(s.hub.Log()); !slices.Contains(seen, c.agent) {
				t.Errorf("the stand-in saw %v, want %s among them", seen, c.agent)
			}
		})
	}
}
