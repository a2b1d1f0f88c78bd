package proxy_test

import (
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// TestWrongCredentials: with credentials that the registry does not accept,
// what is public is pulled without them, and what is held goes on being served
// when that is refused too.
func TestWrongCredentials(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: "another"}})
	img := hub.Image("owner/public", "v1", fakehub.RandomBlob(704, 1000))
	r := newRig(t, rigOptions{hub: hub, user: boxUser, password: boxPassword})
	r.pull(t, "owner/public", img)
	hub.SetPrivate("owner/public", boxUser)
	r.clock.Advance(2 * time.Minute)
	hub.RevokeTokens()
	r.pull(t, "owner/public", img)
	if n, _ := r.all.Value("hubcap_upstream_credential_failures_total", "reason", "refused"); n == 0 {
		t.Error("nothing is counted")
	}
}
