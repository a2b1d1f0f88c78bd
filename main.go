// Command hubcap is a caching pull-through proxy for Docker Hub and every
// other OCI registry.
//
//	hubcap              serves
//	hubcap config       prints every variable, its default and its value, and
//	                    fails where the start would
//	hubcap version      prints the version
//	hubcap healthcheck  exits 0 when the hubcap of this configuration is ready
//	hubcap setup CLIENT prints the configuration of a client, as GET /setup has
//	                    it; with ansible or cloud-init after CLIENT for many hosts
//	hubcap doctor       checks what hubcap needs, before its start and beside a
//	                    running one, and says what to do; with --json as JSON
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"hubcap/proxy/config"
	"hubcap/proxy/doctor"
	"hubcap/proxy/logging"
	"hubcap/proxy/server"
)

const (
	logBuffer   = 1 << 20         // bytes of log lines, some thousands, that may wait while standard error is not read
	flushWithin = 2 * time.Second // how long the end waits for the last lines to be written
)

func main() {
	err := run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	if err != nil && !errors.As(err, new(logged)) {
		fmt.Fprintln(os.Stderr, "hubcap:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

// logged is an error that is in the log already.
type logged struct{ error }

func (l logged) Unwrap() error { return l.error }

func run(args, environ []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "setup" {
		return server.PrintSetup(stdout, environ, args[1:])
	}
	command := strings.Join(args, " ")
	switch command {
	case "version":
		_, err := fmt.Fprintln(stdout, server.Version())
		return err
	case "config":
		if err := config.Print(stdout, environ); err != nil {
			return err
		}
	case "doctor", "doctor --json":
		ctx, stop := untilStopped()
		defer stop()
		return doctor.Run(ctx, doctor.Options{Environ: environ, Version: server.Version()}).Print(stdout, command != "doctor")
	case "", "healthcheck":
	default:
		return fmt.Errorf("unknown command %q; there are: (none, to serve), config, version, healthcheck, doctor [--json], setup CLIENT", command)
	}
	c, err := config.Load(environ)
	switch {
	case command == "":
		return serveLogged(c, err, environ, stderr)
	case err != nil:
		return err
	case command == "config":
		return server.Check(c)
	default:
		return server.Healthcheck(c)
	}
}

// untilStopped returns a context that ends when the process is asked to end.
func untilStopped() (ctx context.Context, stop context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// serveLogged serves until a signal ends it. All output is in the log, also
// failure, the error of the configuration, if it is not nil.
func serveLogged(c config.Config, failure error, environ []string, stderr io.Writer) error {
	// When the reader of the log has gone, the process goes on. SIGPIPE is
	// caught and not ignored, because child processes inherit what is ignored.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := untilStopped()
	defer stop()
	logs := newLog(c, stderr)
	defer logs.Close(flushWithin)
	if stderr == io.Writer(os.Stderr) {
		release, err := logs.Capture()
		if err != nil {
			logs.Warn("what libraries write to standard error is not in the log's format", "err", err)
		} else {
			defer release(flushWithin)
		}
	}
	if failure == nil {
		failure = server.Check(c)
	}
	if failure == nil {
		failure = serve(ctx, c, environ, logs)
	}
	if failure != nil {
		logs.Error("hubcap ends", "err", failure)
		return logged{failure}
	}
	return nil
}

func newLog(c config.Config, w io.Writer) *logging.Log {
	return logging.New(logging.Options{Out: w, JSON: c.LogFormat == "json", Level: slog.Level(c.LogLevel), Buffer: logBuffer})
}

// serve runs until ctx ends.
func serve(ctx context.Context, c config.Config, environ []string, logs *logging.Log) error {
	// A core file would hold credentials and clients' content. Where this is
	// not permitted, the limit of the environment holds.
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	s, err := server.New(c, server.Options{Log: logs.Logger, LogLost: logs.Lost, Version: server.Version(), Environ: environ})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Serve(ctx)
}
