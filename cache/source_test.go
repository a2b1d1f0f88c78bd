package cache

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// TestMeterCapsAllTransfersTogether reads two blobs at once under one cap, on
// a clock of the test's own: neither starves, and together they take as long
// as their bytes allow.
func TestMeterCapsAllTransfersTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, cap = 4 * mib, mib
		meter := newMeter(cap)
		body, _ := content(300, each)
		began := time.Now()
		ends := make(chan time.Duration)
		for range 2 {
			go func() {
				r := &resumer{ctx: t.Context(), source: &origin{body: body}, end: each, size: each, resumed: func() {}, meter: meter}
				defer r.Close()
				n, err := io.Copy(io.Discard, r)
				if n != each || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
				ends <- time.Since(began)
			}()
		}
		first, last := <-ends, <-ends
		whole := 2 * each / cap * time.Second
		if last < whole-time.Second || last > whole+time.Second {
			t.Errorf("%s for bytes of %s", last, whole)
		}
		if first < whole-time.Second {
			t.Errorf("one had ended after %s, the other after %s: the cap was not shared", first, last)
		}
	})
}
