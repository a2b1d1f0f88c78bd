package fill

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestPacerCapsAllTransfersTogether has two transfers take the bytes of a
// blob each under one cap, on a clock of the test's own: neither starves, and
// together they take as long as their bytes allow. A transfer that no client has
// requested comes after a requested one.
func TestPacerCapsAllTransfersTogether(t *testing.T) {
	const each, cap = 4 * mib, mib
	alone, both := each/cap*time.Second, 2*each/cap*time.Second
	for _, tc := range []struct {
		name           string
		requestedAfter time.Duration // the second one; 0 for from the beginning
		first, last    time.Duration // when they end, a second more or less
	}{
		{"both asked for", 0, both, both},
		{"one not requested", time.Hour, alone, both},
		{"one requested half-way", 2 * time.Second, 6 * time.Second, both},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPacer(cap)
				began := time.Now()
				ends := make(chan time.Duration)
				later := make(chan struct{})
				timer := time.AfterFunc(tc.requestedAfter, func() { close(later) })
				defer timer.Stop()
				for _, when := range []<-chan struct{}{requested, later} {
					if tc.requestedAfter == 0 {
						when = requested
					}
					go func() {
						for done := 0; done < each; done += BufferSize {
							if err := p.wait(t.Context(), BufferSize, when); err != nil {
								t.Error(err)
							}
						}
						ends <- time.Since(began)
					}()
				}
				first, last := <-ends, <-ends
				for _, end := range []struct{ got, want time.Duration }{{first, tc.first}, {last, tc.last}} {
					if end.got < end.want-time.Second || end.got > end.want+time.Second {
						t.Errorf("%s, want %s", end.got, end.want)
					}
				}
			})
		})
	}
}
