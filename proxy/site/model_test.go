package site

import (
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/metrics"
)

// The model is of up to four boxes that are asked for one blob by their clients, in every
// order in which that can happen: each has its own list, and asks in the order of before.
// What a fill does is fill's rules in short.

const modelled = 4

// fillPhase is where the fill of a box is.
type fillPhase uint8

const (
	unasked  fillPhase = iota
	choosing           // asks the box at, counted in its order, next
	waiting            // reads from the box at
	far                // reads from the registry
	done
	dead
)

type fillState struct {
	phase fillPhase
	at    uint8
}

type state [modelled]fillState

// model is the boxes; before has, for each, the boxes that it asks, in order.
type model struct {
	before   [modelled][]uint8
	deaths   bool // one box may die
	joinsFed bool // without the rule that a box joins nothing that boxes may feed
	seen     map[state]bool
}

// run visits every state that can be reached, and returns what is wrong with one.
func (m *model) run(s state) error {
	if m.seen[s] {
		return nil
	}
	m.seen[s] = true
	if err := m.check(s); err != nil {
		return err
	}
	moved := false
	for i := range s {
		for _, next := range m.next(s, i) {
			moved = true
			if err := m.run(next); err != nil {
				return err
			}
		}
	}
	if !moved {
		for i, f := range s {
			if f.phase != done && f.phase != dead {
				return fmt.Errorf("box %d never ends: %v", i, s)
			}
		}
	}
	return nil
}

// check finds a wait without a transfer under way.
func (m *model) check(s state) error {
	for i := range s {
		at := i
		for steps := 0; s[at].phase == waiting; steps++ {
			if steps > modelled {
				return fmt.Errorf("box %d waits for itself: %v", i, s)
			}
			at = int(s[at].at)
		}
	}
	return nil
}

// next returns what may become of s by a step of box i.
func (m *model) next(s state, i int) (all []state) {
	to := func(phase fillPhase, at int) state {
		next := s
		next[i] = fillState{phase, uint8(at)}
		return next
	}
	switch f := s[i]; f.phase {
	case unasked:
		all = append(all, to(choosing, 0))
	case choosing:
		all = append(all, m.choose(s, i, to))
	case waiting:
		switch s[f.at].phase {
		case done:
			all = append(all, to(done, 0))
		case dead:
			all = append(all, to(choosing, 0))
		}
	case far:
		all = append(all, to(done, 0))
	}
	if m.deaths && s[i].phase != dead && !hasDead(s) {
		all = append(all, to(dead, 0))
	}
	return all
}

// choose is box i asking its next place.
func (m *model) choose(s state, i int, to func(fillPhase, int) state) state {
	at := int(s[i].at)
	if at == len(m.before[i]) {
		return to(far, 0)
	}
	place := int(m.before[i][at])
	refused := to(choosing, at+1)
	switch phase := s[place].phase; {
	case place == i, phase == dead: // 508, or no answer
		return refused
	case (phase == choosing || phase == waiting) && !m.joinsFed:
		return refused
	case phase == unasked: // it asks the registry for a box, and no box
		next := to(waiting, place)
		next[place] = fillState{phase: far}
		return next
	default:
		return to(waiting, place)
	}
}

func hasDead(s state) bool {
	for _, f := range s {
		if f.phase == dead {
			return true
		}
	}
	return false
}

// nameOf is how a list may name a box: each has two names.
func nameOf(i int, alias bool) *url.URL {
	host := fmt.Sprintf("hubcap-%d:5000", i)
	if alias {
		host = fmt.Sprintf("also-%d:5000", i)
	}
	return &url.URL{Scheme: "http", Host: host}
}

// listings are the lists that box self may have: each other box under one name, under
// another, or not at all, and itself under its second name too.
func listings(self int) (all [][]*url.URL) {
	all = [][]*url.URL{{nameOf(self, false)}, {nameOf(self, false), nameOf(self, true)}}
	for i := range modelled {
		if i == self {
			continue
		}
		for _, l := range all {
			for _, alias := range []bool{false, true} {
				all = append(all, append(l[:len(l):len(l)], nameOf(i, alias)))
			}
		}
	}
	return all
}

// orders returns, for each list and digest, which boxes a box with it asks.
func orders(lists [][]*url.URL, digests []digest.Digest) (all [][][]uint8) {
	number := make(map[string]uint8)
	for i := range uint8(modelled) {
		number[nameOf(int(i), false).String()], number[nameOf(int(i), true).String()] = i, i
	}
	for _, l := range lists {
		s := New(options(func(o *Options) { o.Boxes, o.Self = l, 0 }))
		var of [][]uint8
		for _, d := range digests {
			var order []uint8
			for _, b := range s.before(d) {
				order = append(order, number[b.name])
			}
			of = append(of, order)
		}
		all = append(all, of)
	}
	return all
}

// boxTime is Options.BoxTime.
const boxTime = time.Second

func options(change func(o *Options)) Options {
	o := Options{
		UserAgent: "test", Longest: time.Minute, BoxTime: boxTime, MaxManifest: 1 << 20, Now: time.Now,
		RootCAs: func() *x509.CertPool { return nil },
		Metrics: metrics.New().Site, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	change(&o)
	return o
}

func modelDigests(n int) (all []digest.Digest) {
	for i := range n {
		all = append(all, digest.FromString(fmt.Sprint("blob ", i)))
	}
	return all
}

// TestNoBoxWaitsForItself has every pair of lists that two boxes can have of each other
// and of two further ones, which have the right list: in no order of events does a box
// wait for itself, and each gets the blob.
func TestNoBoxWaitsForItself(t *testing.T) {
	digests := modelDigests(4)
	if testing.Short() {
		digests = digests[:1]
	}
	full := func(self int) [][]uint8 {
		l := []*url.URL{nameOf(self, false)}
		for i := range modelled {
			if i != self {
				l = append(l, nameOf(i, false))
			}
		}
		return orders([][]*url.URL{l}, digests)[0]
	}
	first, second := orders(listings(0), digests), orders(listings(1), digests)
	third, fourth := full(2), full(3)
	pairs := 0
	for _, a := range first {
		for _, b := range second {
			for d := range digests {
				pairs++
				m := model{before: [modelled][]uint8{a[d], b[d], third[d], fourth[d]}, seen: make(map[state]bool)}
				if err := m.run(state{}); err != nil {
					t.Fatalf("%v: %v", m.before, err)
				}
			}
		}
	}
	t.Logf("%d pairs of lists", pairs)
}

// TestNoBoxWaitsForADeadOne is TestNoBoxWaitsForItself with a box that dies at any
// moment, for a part of the pairs.
func TestNoBoxWaitsForADeadOne(t *testing.T) {
	digests := modelDigests(1)
	first, second := orders(listings(0), digests), orders(listings(1), digests)
	for i, a := range first {
		for j, b := range second {
			if (i+j)%7 != 0 {
				continue
			}
			m := model{before: [modelled][]uint8{a[0], b[0], {0, 1}, {1, 2, 0}}, deaths: true, seen: make(map[state]bool)}
			if err := m.run(state{}); err != nil {
				t.Fatalf("%v: %v", m.before, err)
			}
		}
	}
}

// TestModelFindsDeadlocks: without the rule that a box joins nothing that boxes may feed,
// boxes would wait for each other.
func TestModelFindsDeadlocks(t *testing.T) {
	m := model{before: [modelled][]uint8{{1}, {0}, {}, {}}, joinsFed: true, seen: make(map[state]bool)}
	if err := m.run(state{}); err == nil {
		t.Error("two boxes that each take the other for the owner, and no deadlock is found")
	}
}

// TestShares: the boxes own about as many digests each, and one that leaves moves its own
// alone.
func TestShares(t *testing.T) {
	list := []*url.URL{nameOf(0, false), nameOf(1, false), nameOf(2, false)}
	three := New(options(func(o *Options) { o.Boxes = list }))
	two := New(options(func(o *Options) { o.Boxes = list[:2] }))
	owned := make(map[string]int)
	for _, d := range modelDigests(3000) {
		owner := three.ranked(d)[0].name
		owned[owner]++
		if left := two.ranked(d)[0].name; owner != list[2].String() && left != owner {
			t.Fatalf("%s moves from %s to %s", d, owner, left)
		}
	}
	for name, n := range owned {
		if n < 900 || n > 1100 {
			t.Errorf("%s owns %d of 3000", name, n)
		}
	}
}
