package main

import (
	"sync"
	"time"
)

// idleConnections is the memory that a server keeps for a connection that has pulled
// once and then waits.
func idleConnections(b *bench) ([]row, error) {
	rows := collected(row{what: "memory of an idle connection, of 2,000 that pulled the warm manifest once", unit: "KiB", to: plainName, must: "≤ 1.3"})
	b.upstream(0, 0, 0)
	b.settings = []string{"HUBCAP_MAX_CONNECTIONS_PER_CLIENT=4096"} // all of them have one address
	defer func() { b.settings = nil }()
	for range b.reps {
		if err := b.each(func(c *contender) error { return b.idleConnection(c, rows[0]) }, warmFew...); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func (b *bench) idleConnection(c *contender, r row) error {
	const connections = 2000
	path, err := b.heldManifest(c)
	if err != nil {
		return err
	}
	before := c.resident()
	var idle clients
	defer idle.close()
	if err := idle.open(c.dialer(path, smallBuffer), connections); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // what the server still does after the answers
	r.add(c, (c.resident()-before)/1024/connections)
	return idle.get()
}

// clients are connections that stay open.
type clients struct {
	mu  sync.Mutex
	all []*raw
}

// busyClients is how many of the clients pull at once.
const busyClients = 20

// open makes n clients that pull once each.
func (s *clients) open(dial dialer, n int) error {
	return together(busyClients, func(int) error {
		for range n / busyClients {
			c, err := dial()
			if err != nil {
				return err
			}
			s.mu.Lock()
			s.all = append(s.all, c)
			s.mu.Unlock()
			if _, err := c.get(); err != nil {
				return err
			}
		}
		return nil
	})
}

// get has each client pull again: its connection was open all the time.
func (s *clients) get() error {
	return together(busyClients, func(i int) error {
		for ; i < len(s.all); i += busyClients {
			if _, err := s.all[i].get(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *clients) close() {
	for _, c := range s.all {
		_ = c.conn.Close()
	}
}
