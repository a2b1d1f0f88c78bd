package cache

import (
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestChanged: what was stored or lost is told once, up to a bound that is told too.
func TestChanged(t *testing.T) {
	c := &Cache{gone: newGone()}
	of := func(n int) digest.Digest { return digest.FromString(strconv.Itoa(n)) }
	now := time.Unix(1, 0)
	c.gone.note(of(1), now, false)
	c.gone.note(of(1), now, true)
	c.gone.forget(of(2))
	some, more := c.Changed()
	if _, lost := some[of(1)]; !lost || len(some) != 2 || more {
		t.Errorf("%v, %v", some, more)
	}
	if some, more := c.Changed(); len(some) > 0 || more {
		t.Errorf("told again: %v, %v", some, more)
	}
	if how, known := c.Gone(of(1)); !known || how.Wrong {
		t.Errorf("the first reason is not kept: %+v", how)
	}
	for n := range maxChanged + 1 {
		c.gone.forget(of(n))
	}
	if some, more := c.Changed(); len(some) != maxChanged || !more {
		t.Errorf("%d changes, more: %v", len(some), more)
	}
}
