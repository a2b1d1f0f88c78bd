package logging

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	var throttle Throttle
	for _, step := range []struct {
		at   time.Duration
		want bool
	}{
		{0, true}, {0, false}, {time.Minute - 1, false}, {time.Minute, true}, {time.Minute + 1, false},
		{-time.Hour, true}, {-time.Hour + 1, false},
	} {
		if got := throttle.Allow(start.Add(step.at)); got != step.want {
			t.Errorf("Allow after %v = %v", step.at, got)
		}
	}
}

func TestThrottleAllowsOneOfMany(t *testing.T) {
	var throttle Throttle
	var allowed atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			if throttle.Allow(time.Unix(1, 0)) {
				allowed.Add(1)
			}
		})
	}
	all.Wait()
	if n := allowed.Load(); n != 1 {
		t.Errorf("%d allowed", n)
	}
}
