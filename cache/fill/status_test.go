package fill

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRateOverTheLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m ewma
		if got := m.perSecond(time.Now()); got != 0 {
			t.Errorf("%d before the first byte", got)
		}
		near := func(when string, want int64) {
			t.Helper()
			if got := m.perSecond(time.Now()); got < want*9/10 || got > want*11/10 {
				t.Errorf("%s: %d bytes a second, want about %d", when, got, want)
			}
		}
		for i := range 200 {
			m.add(100*kib, time.Now())
			time.Sleep(100 * time.Millisecond)
			if i == 9 {
				near("after one second", 1000*kib)
			}
		}
		near("after twenty", 1000*kib)
		for range 200 {
			m.add(10*kib, time.Now())
			time.Sleep(100 * time.Millisecond)
		}
		near("slower", 100*kib)
		time.Sleep(10 * meterTime)
		if got := m.perSecond(time.Now()); got > kib {
			t.Errorf("%d long after the last byte", got)
		}
	})
}
