int campaign_main(int argc, char **argv);
int main(int argc, char **argv) { return campaign_main(argc, argv); }
