package access

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

// TestRefusals shows that refused clients and registries that are not configured
// are logged once a minute, counted by client, and forgotten after ten minutes.
func TestRefusals(t *testing.T) {
	log, clock := new(testkit.Log), testkit.NewClock(time.Unix(1e9, 0))
	r := NewRefusals(clock.Now, slog.New(slog.NewTextHandler(log, nil)))
	a, b := netip.MustParseAddr("172.30.4.2"), netip.MustParseAddr("172.30.4.3")
	for range 3 {
		r.Client(a)
		r.Registry("harbor.corp", a)
	}
	r.Client(b)
	r.Registry("harbor.corp", b)
	r.Registry("other.corp", b)
	for _, text := range []string{"this mirror does not serve 172.30.4.2: HUBCAP_ALLOW_CLIENTS", "1 client asks for harbor.corp, which is not configured: HUBCAP_UPSTREAM_<n>_HOST=harbor.corp"} {
		if strings.Count(log.String(), text) != 1 {
			t.Errorf("want once %q:\n%s", text, log)
		}
	}
	s := r.Status()
	if len(s.Clients) != 2 || s.Clients[0].Client != b || len(s.Registries) != 2 || s.Registries[0].Registry != "harbor.corp" || s.Registries[0].Clients != 2 {
		t.Errorf("%+v", s)
	}
	clock.Advance(time.Minute)
	r.Registry("harbor.corp", a)
	if !strings.Contains(log.String(), "2 clients ask for harbor.corp") {
		t.Errorf("a minute later:\n%s", log)
	}
	clock.Advance(10 * time.Minute)
	if s := r.Status(); len(s.Clients)+len(s.Registries) != 0 {
		t.Errorf("after ten minutes: %+v", s)
	}
}
