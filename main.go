// Command hubcap is a caching pull-through proxy for Docker Hub and every
// other OCI registry. Without arguments it serves; hubcap --help lists its
// commands.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"hubcap/proxy/cli"
	"hubcap/proxy/config"
	"hubcap/proxy/logging"
	"hubcap/proxy/server"
)

const (
	logBuffer   = 1 << 20         // bytes of log lines, some thousands, that may wait while standard error is not read
	flushWithin = 2 * time.Second // how long the end waits for the last lines to be written
)

func main() { os.Exit(cli.Report(os.Stderr, run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))) }

func run(args, environ []string, stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return cli.Run(ctx, args, cli.Options{
		Environ: environ, Stdin: os.Stdin, Stdout: stdout, Stderr: stderr, Version: server.Version(),
		Serve: func(ctx context.Context) error {
			c, err := config.Load(environ)
			return serveLogged(ctx, c, err, environ, stderr)
		},
	})
}

// serveLogged serves until ctx ends. All output is in the log, also failure, the
// error of the configuration, if it is not nil.
func serveLogged(ctx context.Context, c config.Config, failure error, environ []string, stderr io.Writer) error {
	// When the reader of the log has gone, the process goes on. SIGPIPE is
	// caught and not ignored, because child processes inherit what is ignored.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
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
		return &cli.Failure{Code: cli.Failed, Err: failure, Told: true}
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
