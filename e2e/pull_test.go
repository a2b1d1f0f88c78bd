package e2e

import (
	"strings"
	"sync"
	"testing"
)

// longTTL keeps a tag fresh for longer than any test takes, so that the number of requests does not depend on how fast the machine is.
const longTTL = "HUBCAP_TAG_TTL=1h"

// TestPullDebian pulls an image made from Debian with each client: cold, then warm by another one of its kind that has nothing yet.
func TestPullDebian(t *testing.T) {
	need(t)
	debian := debianImage(t)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			need(t, c.programs...)
			s := newSite(t, debian)
			s.startHubcap(t, scratch(t), longTTL)

			first := c.start(t, s, mirror)
			mustPull(t, first, debian)
			s.assertNoBypass(t)
			s.assertCrossedOnce(t, debian)

			cold := len(s.hub.Log())
			mustPull(t, c.start(t, s, mirror), debian)
			if more := s.hub.Log()[cold:]; len(more) > 0 {
				t.Errorf("the warm pull asked the upstream:\n%s", describe(more))
			}
			runDebian(t, first, debian)
		})
	}
}

// runDebian starts a container of the image that was pulled, with the client that can do that on any machine.
func runDebian(t *testing.T, pulled session, debian *image) {
	t.Helper()
	d, ok := pulled.(dockerd)
	if !ok {
		return
	}
	out := d.run(t, debian, "sh", "-c", "cat /etc/hubcap-e2e && git --version && python3 -c 'print(6*7)'")
	for _, want := range []string{debianMark, "git version", "42"} {
		if !strings.Contains(out, want) {
			t.Errorf("a container of the image prints %q, want %q in it", out, want)
		}
	}
}

// TestPullDebianAllAtOnce lets all the clients pull from the cold box at the same time: one transfer serves them all.
func TestPullDebianAllAtOnce(t *testing.T) {
	for _, c := range clients {
		need(t, c.programs...)
	}
	debian := debianImage(t)
	s := newSite(t, debian)
	s.startHubcap(t, scratch(t), longTTL)
	var sessions []session
	for _, c := range clients {
		sessions = append(sessions, c.start(t, s, mirror))
	}
	var pulls sync.WaitGroup
	for n, session := range sessions {
		pulls.Go(func() {
			if err := session.pull(debian); err != nil {
				t.Errorf("%s: %v", clients[n].name, err)
			}
		})
	}
	pulls.Wait()
	s.assertNoBypass(t)
	s.assertCrossedOnce(t, debian)
}
