package cli

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/config"
	"hubcap/proxy/doctor"
	"hubcap/proxy/server"
	"hubcap/proxy/setup"
)

// local returns the commands that ask no API.
func (p *program) local() []*cobra.Command {
	return []*cobra.Command{
		p.command("serve", "Serve, as hubcap without a command does", 0, 0, func(ctx context.Context, _ []string) error { return p.Serve(ctx) }),
		p.command("config", "Print every variable, its default and its value, and fail where the start would", 0, 0, p.config),
		p.command("version", "Print the version", 0, 0, func(context.Context, []string) error { return p.say("%s", p.Version) }),
		p.command("healthcheck", "Exit with 0 when the hubcap of this configuration is ready", 0, 0, p.healthcheck),
		p.doctor(), p.login(), p.setup(), p.completion(),
	}
}

func (p *program) config(context.Context, []string) error {
	if err := config.Print(p.Stdout, p.Environ); err != nil {
		return err
	}
	c, err := config.Load(p.Environ)
	if err != nil {
		return err
	}
	return server.Check(c)
}

func (p *program) healthcheck(context.Context, []string) error {
	c, err := config.Load(p.Environ)
	if err != nil {
		return err
	}
	return server.Healthcheck(c)
}

func (p *program) doctor() *cobra.Command {
	does := "Check what hubcap needs, before its start and beside a running one, and say what to do"
	cmd := p.command("doctor", does, 0, 0, func(ctx context.Context, _ []string) error {
		return doctor.Run(ctx, doctor.Options{Environ: p.Environ, Version: p.Version}).Print(p.Stdout, p.asJSON)
	})
	p.withJSON(cmd)
	return cmd
}

// login prints a link that logs a browser in.
func (p *program) login() *cobra.Command {
	var in api.LoginRequest
	cmd := p.command("login", "Print a link that logs a browser in, once, within five minutes", 0, 0, func(ctx context.Context, _ []string) error {
		link, _, err := ask[api.Login](ctx, p, http.MethodPost, "login", nil, in)
		if err != nil {
			return err
		}
		return p.say("%s", link.URL)
	})
	cmd.Flags().BoolVar(&in.View, "view", false, "the browser may look and change nothing")
	p.withBox(cmd)
	return cmd
}

func (p *program) setup() *cobra.Command {
	return &cobra.Command{
		Use:   "setup CLIENT [FORM]",
		Short: "Print the configuration of a client, as GET /setup has it",
		Long: `Print the configuration of a client, as GET /setup of the mirror port has it.
With ansible or cloud-init as FORM it is printed for many hosts.`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			words := [][]string{setup.Names(), {setup.Ansible, setup.CloudInit}}
			if len(args) >= len(words) {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return words[len(args)], cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error { return server.PrintSetup(p.Stdout, p.Environ, args) },
	}
}

// completion prints a script for a shell, as cobra makes it.
func (p *program) completion() *cobra.Command {
	cmd := p.command("completion SHELL", "Print the script that completes commands in bash, zsh, fish or powershell", 1, 1, nil)
	cmd.Long = `Print the script that completes commands and names of images in a shell.

    bash        hubcap completion bash >/etc/bash_completion.d/hubcap
    zsh         hubcap completion zsh >"${fpath[1]}/_hubcap"
    fish        hubcap completion fish >~/.config/fish/completions/hubcap.fish
    powershell  hubcap completion powershell | Out-String | Invoke-Expression`
	cmd.ValidArgs = []string{"bash", "zsh", "fish", "powershell"}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch root := cmd.Root(); args[0] {
		case "bash":
			return root.GenBashCompletionV2(p.Stdout, true)
		case "zsh":
			return root.GenZshCompletion(p.Stdout)
		case "fish":
			return root.GenFishCompletion(p.Stdout, true)
		case "powershell":
			return root.GenPowerShellCompletionWithDesc(p.Stdout)
		}
		return failed(Usage, "completion: no such shell; there are: bash, zsh, fish, powershell")
	}
	return cmd
}
