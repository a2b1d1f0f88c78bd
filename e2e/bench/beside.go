package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// besideFills is how long a manifest that is held takes while the server is busy with
// layers that nobody holds. The clients of the layers drop them, so that the manifest
// does not wait for them.
func besideFills(b *bench) ([]row, error) {
	rows := collected(row{what: "p99 of warm manifests, one each 2 ms, beside 8 cold fills of 64 MiB, 40 MB/s a connection, 125 MB/s in all", unit: "ms", to: nginxName, must: "≤ 1.0"})
	b.upstream(near, 40e6, line)
	for range b.reps {
		if err := b.each(func(c *contender) error { return b.besideFill(c, rows[0]) }, hubcapName, nginxName); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func (b *bench) besideFill(c *contender, r row) error {
	const layers, size = 8, 64 * mib
	path, err := b.heldManifest(c)
	if err != nil {
		return err
	}
	_, cold := b.content(repository, sizes(layers, size)...)
	stop, err := b.startProbe(c.url + path)
	if err != nil {
		return err
	}
	err = together(layers, func(i int) error { return c.dropLayer(cold[i], size) })
	p99, perr := stop()
	r.add(c, float64(p99.Microseconds())/1000)
	return errors.Join(err, perr)
}

// startProbe times pulls in a process of its own: the goroutines of this one are busy
// with what the hub sends. stop ends it and returns the 99th percentile.
func (b *bench) startProbe(url string) (stop func() (time.Duration, error), err error) {
	cmd := exec.Command(b.programs[plainName], "-probe", url)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	return func() (time.Duration, error) {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			return 0, err
		}
		return time.ParseDuration(strings.TrimSpace(out.String()))
	}, nil
}

// printP99 pulls an address each two milliseconds until the input ends, and prints the
// 99th percentile of how long it took.
func printP99(url string) error {
	scheme, rest, _ := strings.Cut(url, "://")
	host, path, _ := strings.Cut(rest, "/")
	one := &contender{url: scheme + "://" + host}
	c, err := one.dialer("/"+path, smallBuffer)()
	if err != nil {
		return err
	}
	defer c.conn.Close()
	ended := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(ended) }()
	var took []time.Duration
	for next := time.NewTicker(2 * time.Millisecond); ; {
		began := time.Now()
		if _, err := c.get(); err != nil {
			return err
		}
		took = append(took, time.Since(began))
		select {
		case <-ended:
			slices.Sort(took)
			_, err := fmt.Println(took[len(took)*99/100])
			return err
		case <-next.C:
		}
	}
}
