package main

import (
	"time"

	"hubcap/e2e/fakehub"
)

const line = 125e6 // bytes a second, all connections together

// pacedFills is what a cold fill costs when its bytes come as they do over a network:
// eight layers at a time, in packets of 4 KiB.
func pacedFills(b *bench) ([]row, error) {
	const size, layers = 64 * mib, 8
	rows := collected(row{what: "cold fill, 8 layers at a time, 125 MB/s in all, arrivals of 4 KiB: CPU of the server a GiB", unit: "s", to: nginxName, must: "≤ 2.0"})
	b.upstream(near, 0, line)
	b.hub.Set(func(o *fakehub.Options) { o.WriteSize = 4 << 10 })
	defer b.hub.Set(func(o *fakehub.Options) { o.WriteSize = 0 })
	err := b.each(func(c *contender) error {
		for range b.reps {
			if err := b.pullOne(c); err != nil {
				return err
			}
			_, all := b.content(repository, sizes(layers, size)...)
			before := c.cpu()
			if err := together(layers, func(i int) error { return c.dropLayer(all[i], size) }); err != nil {
				return err
			}
			time.Sleep(time.Second) // what is written behind the answers
			rows[0].add(c, (c.cpu()-before).Seconds()/(layers*size)*(1<<30))
		}
		return nil
	}, hubcapName, nginxName, distributionName)
	return rows, err
}

// manyFills is 500 clients with a cold layer each: how long all of it takes, and how
// long a client waits for its headers, as shares of the time that the line needs for
// the bytes.
func manyFills(b *bench) ([]row, error) {
	const size, clients = 4 * mib, 500
	rows := collected(
		row{what: "500 clients, each with another cold layer of 4 MiB, 125 MB/s in all: the whole", unit: "× the time of the line", must: "≤ 1.05"},
		row{what: "the same: median wait for headers", unit: "× the time of the line"})
	ideal := time.Duration(clients * size / line * float64(time.Second))
	b.upstream(near, 40e6, line)
	err := b.each(func(c *contender) error {
		if err := b.pullOne(c); err != nil {
			return err
		}
		_, all := b.content(repository, sizes(clients, size)...)
		waits := make([]float64, clients)
		began := time.Now()
		err := together(clients, func(i int) error {
			one, err := c.dialer("/v2/"+repository+"/blobs/"+all[i].String(), smallBuffer)()
			if err != nil {
				return err
			}
			defer one.conn.Close()
			one.headers = func() { waits[i] = float64(time.Since(began)) / float64(ideal) }
			_, err = one.drop()
			return err
		})
		rows[0].add(c, float64(time.Since(began))/float64(ideal))
		rows[1].add(c, median(waits))
		return err
	}, hubcapName, nginxName, distributionName)
	return rows, err
}
