fn main() -> std::process::ExitCode {
    kvmd::run::main()
}
